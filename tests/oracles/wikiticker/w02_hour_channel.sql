SELECT window_start, channel, n, added, max_added, min_delta FROM edits_by_hour_channel ORDER BY window_start, channel

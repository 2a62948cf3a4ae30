SELECT window_start, users, pages, channels, with_country FROM edits_by_hour ORDER BY window_start

SELECT window_start, n, added, deleted, delta FROM edits_by_hour ORDER BY window_start

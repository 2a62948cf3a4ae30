SELECT window_start, n, delay, distance, mn, mx FROM flights_by_day ORDER BY window_start

SELECT window_start, origin, n, n_dep, dep_delay, arr_delay, cancelled
FROM flights_by_day_origin
ORDER BY window_start, origin

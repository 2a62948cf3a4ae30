SELECT window_start, origin, n, delay, mx
FROM hubs_by_hour
WHERE window_start < TIMESTAMP '2001-02-01'
ORDER BY window_start, origin

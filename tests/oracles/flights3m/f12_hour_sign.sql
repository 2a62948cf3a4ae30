SELECT window_start, early, ontime, late, ratio
FROM punctuality_by_hour
WHERE window_start >= TIMESTAMP '2001-06-01'
ORDER BY window_start

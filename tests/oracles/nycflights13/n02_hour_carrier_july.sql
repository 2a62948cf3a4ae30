SELECT window_start, carrier, n, distance, mx
FROM flights_by_hour_carrier
WHERE window_start >= TIMESTAMP '2013-07-01' AND window_start < TIMESTAMP '2013-08-01'
ORDER BY window_start, carrier

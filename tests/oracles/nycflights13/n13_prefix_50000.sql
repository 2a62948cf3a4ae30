-- Asked when exactly the first 50,000 arrivals are accepted.
SELECT *
FROM (
  SELECT window_start, origin, n, dep_delay FROM flights_by_day_origin ORDER BY window_start DESC, origin LIMIT 90
)
ORDER BY window_start, origin

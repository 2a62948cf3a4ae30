SELECT month AS window_start, origin, rnk, dest, n
FROM (
  SELECT *, row_number() OVER (PARTITION BY month, origin ORDER BY n DESC, dest) AS rnk
  FROM flights_by_month_route
)
WHERE rnk <= 3
ORDER BY month, origin, rnk

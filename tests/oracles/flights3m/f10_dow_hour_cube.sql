SELECT dow, hr, sum(n) AS n, sum(delay) AS delay
FROM flights_by_weekday_hour
GROUP BY GROUPING SETS ((dow), (hr), ())
ORDER BY dow NULLS FIRST, hr NULLS FIRST

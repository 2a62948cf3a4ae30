SELECT date_bin(INTERVAL '1 hour', first_seen) AS window_start, count(*) AS first_seen, sum(first_added) AS added
FROM pages
GROUP BY 1
ORDER BY window_start

SELECT namespace, n, n_city, cities, n_metro, sum_metro, round(avg_metro, 6) AS avg_metro
FROM namespace_stats
ORDER BY namespace

SELECT origin, destination, n, delay, mn_dist, mx_dist
FROM routes
ORDER BY n DESC, origin, destination
LIMIT 50

SELECT origin, n, mn, mx, s, s2, round(avg, 6) AS avg, round(sd, 6) AS sd, round(vp, 6) AS vp
FROM origin_stats
ORDER BY origin

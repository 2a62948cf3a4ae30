SELECT carrier, n, n_null, mn, mx, s, s2, avg, sd FROM carrier_stats ORDER BY carrier

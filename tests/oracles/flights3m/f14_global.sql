SELECT n, t_min, t_max, delay, distance, mn, mx, origins, destinations FROM totals

SELECT n, t_min, t_max, added, deleted, delta, users, pages, channels FROM totals

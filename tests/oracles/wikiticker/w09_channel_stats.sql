SELECT channel, n, mn, mx, s, s2, avg, sd_pop, sd_samp FROM channel_stats ORDER BY channel

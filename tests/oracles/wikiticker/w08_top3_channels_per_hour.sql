SELECT window_start, rnk, channel, n
FROM (
  SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY n DESC, channel) AS rnk
  FROM edits_by_hour_channel
)
WHERE rnk <= 3
ORDER BY window_start, rnk

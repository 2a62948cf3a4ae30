SELECT carrier, CAST(max_late_min AS BIGINT) AS max_late_min, early FROM carrier_stats ORDER BY carrier

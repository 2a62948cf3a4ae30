SELECT window_start, "countryIsoCode", n, pages, delta
FROM anonymous_edits_by_country
WHERE window_end = window_start + INTERVAL '6 hours'
ORDER BY window_start, "countryIsoCode"

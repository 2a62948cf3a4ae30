SELECT "countryIsoCode", window_start, delta
FROM delta_by_country_hour
ORDER BY "countryIsoCode" NULLS FIRST, window_start

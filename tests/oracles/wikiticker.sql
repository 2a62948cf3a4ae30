-- One day of Wikipedia edits (Druid's tutorial data), one JSON object a line, in order of time.

CREATE SOURCE wikiticker (
  time TIMESTAMP NOT NULL,
  channel TEXT NOT NULL,
  "cityName" TEXT,
  comment TEXT,
  "countryIsoCode" TEXT,
  "countryName" TEXT,
  "isAnonymous" BOOLEAN NOT NULL,
  "isMinor" BOOLEAN NOT NULL,
  "isNew" BOOLEAN NOT NULL,
  "isRobot" BOOLEAN NOT NULL,
  "isUnpatrolled" BOOLEAN NOT NULL,
  "metroCode" INT,
  namespace TEXT NOT NULL,
  page TEXT NOT NULL,
  "regionIsoCode" TEXT,
  "regionName" TEXT,
  "user" TEXT NOT NULL,
  delta BIGINT NOT NULL,
  added BIGINT NOT NULL,
  deleted BIGINT NOT NULL,
  WATERMARK FOR time AS time - INTERVAL '10 minutes'
) WITH (connector = 'http', partitions = 4, partition_by = 'page');

-- w01, w06
CREATE MATERIALIZED VIEW edits_by_hour AS
SELECT window_start, count(*) AS n, sum(added) AS added, sum(deleted) AS deleted, sum(delta) AS delta,
       count(DISTINCT "user") AS users, count(DISTINCT page) AS pages, count(DISTINCT channel) AS channels,
       count("countryIsoCode") AS with_country
FROM wikiticker
GROUP BY tumble(time, INTERVAL '1 hour');

-- w02, w08
CREATE MATERIALIZED VIEW edits_by_hour_channel AS
SELECT window_start, channel, count(*) AS n, sum(added) AS added, max(added) AS max_added, min(delta) AS min_delta
FROM wikiticker
GROUP BY tumble(time, INTERVAL '1 hour'), channel;

-- w03: NULL is a country of its own.
CREATE MATERIALIZED VIEW delta_by_country_hour AS
SELECT "countryIsoCode", window_start, sum(delta) AS delta
FROM wikiticker
GROUP BY "countryIsoCode", tumble(time, INTERVAL '1 hour');

-- w07, w12: the first edit of each page, and how many there were.
CREATE MATERIALIZED VIEW pages AS
SELECT channel, page, count(*) AS edits, min(time) AS first_seen, first_value(added ORDER BY time) AS first_added
FROM wikiticker
GROUP BY channel, page;

-- w09
CREATE MATERIALIZED VIEW channel_stats AS
SELECT channel, count(*) AS n, min(delta) AS mn, max(delta) AS mx, sum(delta) AS s, sum(delta * delta) AS s2,
       round(avg(delta), 6) AS avg, round(stddev_pop(delta), 6) AS sd_pop, round(stddev_samp(delta), 6) AS sd_samp
FROM wikiticker
GROUP BY channel;

-- w10
CREATE MATERIALIZED VIEW anonymous_edits_by_country AS
SELECT window_start, window_end, "countryIsoCode", count(*) AS n, count(DISTINCT page) AS pages, sum(delta) AS delta
FROM wikiticker
WHERE "isAnonymous" AND namespace = 'Main' AND "countryIsoCode" IS NOT NULL
GROUP BY tumble(time, INTERVAL '6 hours'), "countryIsoCode";

-- w15: sum and avg are NULL where no edit has a metro code.
CREATE MATERIALIZED VIEW namespace_stats AS
SELECT namespace, count(*) AS n, count("cityName") AS n_city, count(DISTINCT "cityName") AS cities,
       count("metroCode") AS n_metro, sum("metroCode") AS sum_metro, avg("metroCode") AS avg_metro
FROM wikiticker
GROUP BY namespace;

-- w17
CREATE MATERIALIZED VIEW totals AS
SELECT count(*) AS n, min(time) AS t_min, max(time) AS t_max, sum(added) AS added, sum(deleted) AS deleted,
       sum(delta) AS delta, count(DISTINCT "user") AS users, count(DISTINCT page) AS pages,
       count(DISTINCT channel) AS channels
FROM wikiticker;

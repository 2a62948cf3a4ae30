-- Flights of January 2014 (Pinot's hybrid table example). Event time is a number of days; partitions fill round robin.

CREATE SOURCE "airlineStats" (
  "DaysSinceEpoch" BIGINT NOT NULL,
  "FlightDate" TEXT NOT NULL,
  "Carrier" TEXT NOT NULL,
  "AirlineID" BIGINT NOT NULL,
  "TailNum" TEXT,
  "FlightNum" BIGINT NOT NULL,
  "Origin" TEXT NOT NULL,
  "OriginState" TEXT NOT NULL,
  "Dest" TEXT NOT NULL,
  "DestState" TEXT NOT NULL,
  "CRSDepTime" BIGINT NOT NULL,
  "DepTime" BIGINT,
  "DepDelay" BIGINT,
  "ArrDelay" BIGINT,
  "Cancelled" BIGINT NOT NULL,
  "Diverted" BIGINT NOT NULL,
  "AirTime" BIGINT,
  "Distance" BIGINT NOT NULL,
  "Flights" BIGINT NOT NULL
) WITH (connector = 'http', partitions = 2);

-- a02: no aggregate; the cancelled flights themselves, many of them equal rows.
CREATE MATERIALIZED VIEW cancelled_flights AS
SELECT "AirlineID", "Cancelled" AS cancelled
FROM "airlineStats"
WHERE "Cancelled" > 0;

-- a03
CREATE MATERIALIZED VIEW flights_by_day_carrier AS
SELECT "DaysSinceEpoch", "Carrier", sum("Flights") AS flights, count("ArrDelay") AS n_arr, sum("ArrDelay") AS arr_delay
FROM "airlineStats"
GROUP BY "DaysSinceEpoch", "Carrier";

-- a01, a04
CREATE MATERIALIZED VIEW sides AS
SELECT CASE WHEN "DaysSinceEpoch" <= 16090 THEN 'batch' ELSE 'realtime' END AS side, count(*) AS n,
       sum("Distance") AS distance
FROM "airlineStats"
GROUP BY CASE WHEN "DaysSinceEpoch" <= 16090 THEN 'batch' ELSE 'realtime' END;

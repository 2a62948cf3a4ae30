-- GitHub events of three hours in July 2021. Most events have no organization, so most partition keys are NULL.

CREATE SOURCE "githubEvents" (
  seq BIGINT NOT NULL,
  id BIGINT NOT NULL,
  type TEXT NOT NULL,
  actor_login TEXT NOT NULL,
  actor_id BIGINT NOT NULL,
  repo_id BIGINT NOT NULL,
  repo_name TEXT NOT NULL,
  org_login TEXT,
  created_at TIMESTAMP NOT NULL,
  public BOOLEAN NOT NULL,
  WATERMARK FOR created_at AS created_at - INTERVAL '1 minute'
) WITH (connector = 'http', partitions = 2, partition_by = 'org_login');

-- g01
CREATE MATERIALIZED VIEW events_by_10m_type AS
SELECT window_start, type, count(*) AS n, count(DISTINCT actor_login) AS actors, count(DISTINCT repo_id) AS repos
FROM "githubEvents"
GROUP BY tumble(created_at, INTERVAL '10 minutes'), type;

-- g04
CREATE MATERIALIZED VIEW repos AS
SELECT repo_name, count(*) AS n, count(DISTINCT type) AS types
FROM "githubEvents"
GROUP BY repo_name;

-- g05
CREATE MATERIALIZED VIEW event_types AS
SELECT type, count(*) AS n, count(org_login) AS with_org, min(id) AS min_id, max(id) AS max_id
FROM "githubEvents"
GROUP BY type;

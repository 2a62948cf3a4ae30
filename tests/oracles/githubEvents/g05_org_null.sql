SELECT type, n, with_org, min_id, max_id FROM event_types ORDER BY type

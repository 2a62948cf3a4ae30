SELECT window_start, type, n, actors, repos FROM events_by_10m_type ORDER BY window_start, type

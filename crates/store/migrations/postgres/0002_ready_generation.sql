-- Which make of a seat was ready last: in that one somebody may have worked.

ALTER TABLE seats ADD COLUMN ready_generation BIGINT;

-- Who holds a seat may have worked in it, as far as anybody knows.
UPDATE seats SET ready_generation = generation WHERE session_id IS NOT NULL OR state IN ('ready', 'unreachable');

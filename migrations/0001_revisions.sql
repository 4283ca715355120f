-- The revision log. One row is one write of one object; rows are never changed, only compacted away.
CREATE TABLE revisions (
    -- The revision of the write: the resourceVersion of the object that it made. Given by the writer, who needs it
    -- before the row exists; it never comes down, as the newest row is never deleted.
    rev      INTEGER PRIMARY KEY,
    -- RESOURCE/NAMESPACE/NAME; the namespace is empty for cluster-scoped objects.
    key      TEXT    NOT NULL,
    -- The revision that created the object; equal to rev for the first row of an object.
    created  INTEGER NOT NULL,
    -- The row of the same key that this one supersedes (a tombstone when a deleted object is created again), or 0.
    prev_rev INTEGER NOT NULL CHECK (prev_rev < rev),
    -- 1: a tombstone. Its value is the last state, with the revision of the delete inside.
    deleted  INTEGER NOT NULL,
    -- When it was written: milliseconds since 1970, UTC.
    at       INTEGER NOT NULL,
    -- The object as JSON. The last column, so that scans by key need not read it.
    value    BLOB    NOT NULL
) STRICT;

-- The optimistic lock: a row can be superseded once.
CREATE UNIQUE INDEX revisions_key ON revisions (key, prev_rev);

-- What is true of the log as a whole; one row.
CREATE TABLE log (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    -- The compaction floor: everything after it is complete, the state at it included.
    floor INTEGER NOT NULL
) STRICT;

INSERT INTO log (id, floor) VALUES (1, 0);

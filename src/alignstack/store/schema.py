"""The tables of the store, as the steps that lead from an empty file, or an older one, to the present one.

A file's `PRAGMA user_version` says how many steps it has had. Steps are never changed, only added.
"""

FIRST = (
    "CREATE TABLE IF NOT EXISTS traces (id TEXT PRIMARY KEY, started REAL NOT NULL, body TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS traces_by_time ON traces (started)",
    "CREATE TABLE IF NOT EXISTS runs (folder TEXT PRIMARY KEY, run TEXT NOT NULL, added REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS runs_by_name ON runs (run)",
)
"""Written so that files from before versions were counted pass through it unchanged."""

SEARCHABLE_TRACES = (
    *(f"ALTER TABLE traces ADD COLUMN {name} TEXT" for name in ("status", "caller", "layer", "hazard", "stack")),
    """
    UPDATE traces SET
      stack = coalesce(json_extract(body, '$.stack'), ''),
      caller = coalesce((SELECT json_extract(value, '$.caller') FROM json_each(body, '$.events')
        WHERE json_extract(value, '$.event') = 'request' LIMIT 1), ''),
      status = coalesce((SELECT json_extract(value, '$.status') FROM json_each(body, '$.events')
        WHERE json_extract(value, '$.event') = 'outcome' LIMIT 1), '')
    WHERE json_valid(body)
    """,
    """
    UPDATE traces SET (layer, hazard) = (
      SELECT json_extract(value, '$.layer'), coalesce(json_extract(value, '$.verdict.hazard'), '')
      FROM json_each(body, '$.events')
      WHERE json_extract(value, '$.mode') = 'enforce'
        AND (json_extract(value, '$.verdict.action') = 'block' OR json_extract(value, '$.on_error') = 'block')
      LIMIT 1)
    WHERE status IN ('blocked', 'cut')
    """,
    "CREATE INDEX traces_by_caller ON traces (caller, started)",
    "CREATE INDEX traces_by_layer ON traces (layer, started) WHERE layer != ''",
)

LEDGER = (
    """
    CREATE TABLE ledger (
      id TEXT NOT NULL, event TEXT NOT NULL CHECK (event IN ('admitted', 'settled')), at REAL NOT NULL,
      key TEXT NOT NULL DEFAULT '', person TEXT NOT NULL DEFAULT '', route TEXT NOT NULL DEFAULT '',
      model TEXT NOT NULL DEFAULT '', tokens INTEGER NOT NULL DEFAULT 0, usd REAL NOT NULL DEFAULT 0,
      status TEXT NOT NULL DEFAULT '', input_tokens INTEGER NOT NULL DEFAULT 0,
      output_tokens INTEGER NOT NULL DEFAULT 0, layer TEXT NOT NULL DEFAULT '', hazard TEXT NOT NULL DEFAULT '',
      seconds REAL NOT NULL DEFAULT 0,
      PRIMARY KEY (id, event))
    """,
    "CREATE INDEX ledger_by_key ON ledger (key, at) WHERE event = 'admitted'",
    "CREATE INDEX ledger_by_time ON ledger (at) WHERE event = 'admitted'",
    "CREATE TABLE spent (key TEXT NOT NULL, day INTEGER NOT NULL, tokens INTEGER NOT NULL, usd REAL NOT NULL, "
    "PRIMARY KEY (key, day)) WITHOUT ROWID",
    """
    CREATE TRIGGER ledger_reserves AFTER INSERT ON ledger WHEN NEW.event = 'admitted' BEGIN
      INSERT INTO spent (key, day, tokens, usd)
      VALUES (NEW.key, CAST(NEW.at / 86400 AS INTEGER), NEW.tokens, NEW.usd)
      ON CONFLICT (key, day) DO UPDATE SET tokens = tokens + excluded.tokens, usd = usd + excluded.usd;
    END
    """,
    """
    CREATE TRIGGER ledger_settles AFTER INSERT ON ledger WHEN NEW.event = 'settled' BEGIN
      UPDATE spent SET
        tokens = spent.tokens + NEW.input_tokens + NEW.output_tokens - was.tokens, usd = spent.usd + NEW.usd - was.usd
      FROM (SELECT key, at, tokens, usd FROM ledger WHERE id = NEW.id AND event = 'admitted') AS was
      WHERE spent.key = was.key AND spent.day = CAST(was.at / 86400 AS INTEGER);
    END
    """,
)
"""`spent` holds what each key has used or reserved on each day of UTC (days since 1970), kept in the transaction of
the insert itself: a budget is looked up, not added up."""

LEANER_SETTLING = (
    "DROP TRIGGER ledger_settles",
    """
    CREATE TRIGGER ledger_settles AFTER INSERT ON ledger WHEN NEW.event = 'settled' BEGIN
      INSERT INTO spent (key, day, tokens, usd)
      SELECT key, CAST(at / 86400 AS INTEGER), NEW.input_tokens + NEW.output_tokens - tokens, NEW.usd - usd
      FROM ledger WHERE id = NEW.id AND event = 'admitted'
      ON CONFLICT (key, day) DO UPDATE SET tokens = tokens + excluded.tokens, usd = usd + excluded.usd;
    END
    """,
)
"""The same sums, without a table made for each row."""

KEYS = (
    """
    CREATE TABLE keys (
      id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, name TEXT NOT NULL, admin INTEGER NOT NULL, allowance TEXT,
      created REAL NOT NULL, expires REAL, revoked REAL, suspended_until REAL)
    """,
    "CREATE TABLE keys_version (changes INTEGER NOT NULL)",
    "INSERT INTO keys_version VALUES (0)",
    *(
        f"CREATE TRIGGER keys_{verb} AFTER {verb} ON keys BEGIN UPDATE keys_version SET changes = changes + 1; END"
        for verb in ("insert", "update", "delete")
    ),
)

STEPS: tuple[tuple[str, ...], ...] = (FIRST, (*SEARCHABLE_TRACES, *LEDGER, *KEYS), LEANER_SETTLING)

-- What a retrain cost and gained, beyond CPU seconds and modelled joules. NULL: not known, as for all runs of before.
ALTER TABLE run ADD COLUMN reason TEXT;
ALTER TABLE run ADD COLUMN wall_s REAL;
ALTER TABLE run ADD COLUMN joules REAL;
ALTER TABLE run ADD COLUMN joules_error REAL;
ALTER TABLE run ADD COLUMN joules_source TEXT;
ALTER TABLE run ADD COLUMN peak_bytes INTEGER;
ALTER TABLE run ADD COLUMN bytes_written INTEGER;
-- JSON: rows, gain and its bounds.
ALTER TABLE run ADD COLUMN holdout TEXT;
ALTER TABLE run ADD COLUMN anchors TEXT;
ALTER TABLE run ADD COLUMN segments TEXT;
ALTER TABLE run ADD COLUMN realised TEXT;

-- Which segment a sample belongs to, as its source says: drift and quality are judged per segment.
ALTER TABLE record ADD COLUMN segment TEXT;

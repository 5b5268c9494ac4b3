"""Files that hold videos or pictures: their frames, the times of the frames, and their limits."""

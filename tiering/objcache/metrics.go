package objcache

// Stats are a cache's counters since New, and its present sizes.
type Stats struct {
	RAMHits, RAMHitBytes    int64 // reads served from RAM
	DiskHits, DiskHitBytes  int64 // reads served from the disk layer
	Misses, MissBytes       int64 // reads of the store
	Shared                  int64 // reads that waited for another's read of the store
	Fills, FillBytes        int64
	Evictions               int64 // objects that left RAM for want of room
	DiskWrites, DiskDropped int64 // extents written, and dropped because the queue was full or the disk failed
	DiskErrors              int64 // failed disk operations and wrong CRCs
	RAMBytes, DiskBytes     int64 // present sizes
	RAMObjects, DiskExtents int64
}

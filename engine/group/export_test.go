package group

// Loaded returns the number of groups in memory.
func (c *Coordinator) Loaded() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

// MaxToldGroups is the most groups whose members and offsets metrics tell.
const MaxToldGroups = maxToldGroups

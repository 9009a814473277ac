package partition

import "github.com/varvelog/varve/internal/kafka/config"

// Config returns the topic's configuration of the moment.
func (l *Log) Config() config.Topic { return l.o.Config() }

package server

import (
	"context"
	"log/slog"
	"sync"
)

// crew is the gateway's background workers: what runs, by name, and how to end it. A reload changes its members; the end of the server
// ends them all. It is safe for concurrent use.
type crew struct {
	ctx context.Context
	log *slog.Logger

	mu      sync.Mutex
	workers map[string]*worker
	all     sync.WaitGroup
}

type worker struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func newCrew(ctx context.Context, log *slog.Logger) *crew {
	return &crew{ctx: ctx, log: log, workers: map[string]*worker{}}
}

// start runs a worker under a name; one that has it already is ended first.
func (c *crew) start(name string, run func(context.Context) error) {
	c.stop(name)
	ctx, cancel := context.WithCancel(c.ctx)
	w := &worker{cancel: cancel, done: make(chan struct{})}
	c.mu.Lock()
	c.workers[name] = w
	c.mu.Unlock()
	c.all.Go(func() {
		defer close(w.done)
		defer cancel()
		if err := run(ctx); err != nil && ctx.Err() == nil {
			c.log.Error("a worker ended", "worker", name, "error", err)
		}
	})
}

// stop ends a worker and waits for it. A name that is free is no fault.
func (c *crew) stop(name string) {
	c.mu.Lock()
	w := c.workers[name]
	delete(c.workers, name)
	c.mu.Unlock()
	if w != nil {
		w.cancel()
		<-w.done
	}
}

// stopAll ends every worker at once and waits for all.
func (c *crew) stopAll() {
	c.mu.Lock()
	for name, w := range c.workers {
		w.cancel()
		delete(c.workers, name)
	}
	c.mu.Unlock()
	c.all.Wait()
}

package xds

import (
	"context"
	"maps"
	"time"
)

// patience is how long a change waits for the acknowledgement of every connected Envoy, before the swap and
// after it. An Envoy that is slower gets the same change, only without being waited for.
const patience = 10 * time.Second

// linger is how long routes stay after the swap has made them unused: what was decided just before it is still on its way to them.
const linger = time.Second

// Report tells what a change cost.
type Report struct {
	Envoys       int      // connected when it ended
	Acknowledged bool     // all of them took every step in time; true with none connected
	Resources    uint64   // sent, all Envoys together
	Bytes        uint64   // of protobuf sent, all Envoys together
	Drained      []string // listeners that changed or went, whose connections drain
	Took         time.Duration
}

// Publish moves every connected Envoy from the present world to next, in steps that never leave a route
// without its cluster:
//
//  1. clusters and secrets that are new or changed, until they are acknowledged, which means ready;
//  2. the routes of both worlds, listeners and ext_proc settings, until they are acknowledged;
//  3. swap, in which the caller turns its own decisions over to the new world;
//  4. after a moment, in which what was decided before reaches its route: routes that are gone, then clusters, secrets and the rest that are gone.
//
// With no Envoy connected, and for the first world, swap is called at once. If an Envoy refuses something before the swap, or ctx ends,
// the old world is restored, swap is not called, and the error holds Envoy's words (*Rejected). After the
// swap there is no way back, and an Envoy that is slow or refuses shows in Report.Acknowledged.
// swap may be nil. Changes are made one after the other.
func (s *Publisher) Publish(ctx context.Context, next *Resources, swap func()) (Report, error) {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	begin := time.Now()
	before := s.Stats()
	s.mu.Lock()
	old := s.target
	s.mu.Unlock()

	rep := Report{Acknowledged: true}
	step := func(ctx context.Context, r *Resources) error {
		s.mu.Lock()
		same := s.target != nil && s.target.digest == r.digest
		s.mu.Unlock()
		if same {
			return nil
		}
		s.setTarget(r)
		return s.acknowledged(ctx, &rep)
	}

	if old != nil {
		rep.Drained = old.Drains(next)
		both, err := union(old, next)
		if err != nil {
			return rep, err
		}
		wait, cancel := context.WithTimeout(ctx, s.patience)
		defer cancel()
		for _, r := range []*Resources{
			old.overlaid(both, typeCluster, typeSecret),
			old.overlaid(both, typeCluster, typeSecret, typeExtProc).with(both, typeListener, typeRoute),
		} {
			err := step(wait, r)
			if err == nil && ctx.Err() != nil {
				err = ctx.Err()
			}
			if err != nil {
				s.setTarget(old)
				return rep, err
			}
		}
	}
	if swap != nil {
		swap()
	}
	var pruned *Resources
	if old != nil {
		s.mu.Lock()
		here := s.target
		s.mu.Unlock()
		if pruned = here.with(next, typeRoute); pruned.digest != here.digest {
			select {
			case <-time.After(linger):
			case <-ctx.Done():
			}
		}
	}
	wait, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	if old != nil {
		if step(wait, pruned) != nil {
			rep.Acknowledged = false
		}
	}
	// The very last step takes next itself, so that the world in hand is the one that was rendered.
	s.setTarget(next)
	if s.acknowledged(wait, &rep) != nil {
		rep.Acknowledged = false
	}
	after := s.Stats()
	rep.Envoys, rep.Took = after.Connected, time.Since(begin)
	rep.Resources, rep.Bytes = after.Resources-before.Resources, after.Bytes-before.Bytes
	return rep, nil
}

// acknowledged waits until every connected Envoy has taken the target. Time running out is no error: it is
// noted in the report.
func (s *Publisher) acknowledged(ctx context.Context, rep *Report) error {
	for {
		s.mu.Lock()
		done, nack, changed := s.appliedLocked(), s.nack, s.changed
		s.mu.Unlock()
		if nack != nil {
			return nack
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			rep.Acknowledged = false
			return nil
		}
	}
}

// overlaid is r with the resources of some types added from another world, and those of r kept where the
// other has none.
func (r *Resources) overlaid(from *Resources, types ...string) *Resources {
	m := r.with(r)
	for _, t := range types {
		set := maps.Clone(r.byType[t])
		maps.Copy(set, from.byType[t])
		m.byType[t] = set
	}
	m.digest = m.sum()
	return m
}

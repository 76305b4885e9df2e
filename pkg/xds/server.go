package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/mcpgw/mcpgw/envoy"
)

// Publisher gives every connected Envoy the published world over one incremental aggregated stream, and knows
// what each of them has acknowledged. Make one with NewPublisher; all methods may be called at the same time.
//
// A stream is open for as long as its Envoy runs, so stop the gRPC server with Stop, not GracefulStop.
type Publisher struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	log      *slog.Logger
	patience time.Duration // see Publish

	publishing sync.Mutex // one change at a time

	mu      sync.Mutex
	target  *Resources       // what every stream is driven to; nil until the first Publish
	streams map[*stream]bool // every stream whose Envoy has been accepted
	changed chan struct{}    // closed and replaced at each change of the fields here or of a stream's state
	nacks   uint64
	nack    *Rejected // of the present target; nil once it was accepted or replaced
	stats   Stats
}

// Stats are counters since the start, and gauges of this moment.
type Stats struct {
	Version   string // of the world being served; "" before the first
	Connected int    // Envoys with an open stream
	Applied   int    // of these, those that acknowledged all of it
	Rejected  uint64 // answers in which an Envoy refused something
	Refused   uint64 // Envoys turned away for their version
	Responses uint64
	Resources uint64
	Bytes     uint64
}

// Rejected is Envoy's refusal of a resource that mcpgw rendered.
type Rejected struct {
	Node    string
	TypeURL string
	Message string // Envoy's own words, in one line
}

func (r *Rejected) Error() string {
	return fmt.Sprintf("envoy %q refuses a %s: %s", r.Node, r.TypeURL[strings.LastIndexByte(r.TypeURL, '.')+1:], r.Message)
}

// NewPublisher makes a publisher that has no world yet: Envoys may connect, and wait.
func NewPublisher(log *slog.Logger) *Publisher {
	return &Publisher{log: log, patience: patience, streams: map[*stream]bool{}, changed: make(chan struct{})}
}

// Register adds the discovery service to a gRPC server.
func (s *Publisher) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Stats returns the counters and gauges.
func (s *Publisher) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Connected = len(s.streams)
	st.Rejected = s.nacks
	if s.target != nil {
		st.Version = s.target.digest
		for c := range s.streams {
			if c.applied == s.target {
				st.Applied++
			}
		}
	}
	return st
}

// Changed is closed at the next change of anything that Stats tells of the connected Envoys.
func (s *Publisher) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Synced returns once at least one Envoy is connected and every connected one has acknowledged the whole
// published world, listeners and routes included. It ends early with a *Rejected, or when ctx does.
func (s *Publisher) Synced(ctx context.Context) error {
	for {
		s.mu.Lock()
		done, nack, changed := len(s.streams) > 0 && s.appliedLocked(), s.nack, s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		if nack != nil {
			return nack
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("no Envoy has taken the configuration: %w", ctx.Err())
		}
	}
}

// appliedLocked: every connected Envoy has acknowledged all of the target.
func (s *Publisher) appliedLocked() bool {
	for c := range s.streams {
		if s.target == nil || c.applied != s.target {
			return false
		}
	}
	return true
}

func (s *Publisher) announceLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Publisher) setTarget(r *Resources) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target, s.nack = r, nil
	s.announceLocked()
}

// StreamAggregatedResources is the state-of-the-world variant, which would send everything at each change.
func (s *Publisher) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return grpcstatus.Error(codes.Unimplemented, "mcpgw speaks incremental xDS: set api_type DELTA_GRPC in ads_config, as `mcpgw render` does")
}

// DeltaAggregatedResources serves one Envoy until it goes.
func (s *Publisher) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	first, err := g.Recv()
	if err != nil {
		return hangup(err)
	}
	c := &stream{server: s, grpc: g, node: first.GetNode().GetId(), subs: map[string]*subscription{}}
	if err := checkVersion(first.GetNode()); err != nil {
		s.mu.Lock()
		s.stats.Refused++
		s.mu.Unlock()
		s.log.Error("xds: an Envoy is turned away", "node", c.node, "error", err)
		return grpcstatus.Error(codes.FailedPrecondition, err.Error())
	}
	s.mu.Lock()
	s.streams[c] = true
	s.announceLocked()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, c)
		s.announceLocked()
		s.mu.Unlock()
		s.log.Info("xds: envoy disconnected", "node", c.node)
	}()
	s.log.Info("xds: envoy connected", "node", c.node, "version", versionText(first.GetNode()))
	return c.serve(first)
}

// hangup: a stream that the other side ended is no fault.
func hangup(err error) error {
	if errors.Is(err, io.EOF) || grpcstatus.Code(err) == codes.Canceled {
		return nil
	}
	return err
}

// checkVersion refuses an Envoy that is older than the one mcpgw renders for.
func checkVersion(n *corev3.Node) error {
	v := n.GetUserAgentBuildVersion().GetVersion()
	want := strings.Split(envoy.Version(), ".")
	have := []uint32{v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch()}
	for i, text := range want {
		num, err := strconv.ParseUint(text, 10, 32)
		if err != nil || i >= len(have) {
			return fmt.Errorf("envoy/VERSION holds %q", envoy.Version())
		}
		if have[i] != uint32(num) {
			if have[i] > uint32(num) {
				return nil
			}
			return fmt.Errorf("this Envoy says it is %s; mcpgw needs %s or later: start that one, it is what `make tools` installs", versionText(n), envoy.Version())
		}
	}
	return nil
}

func versionText(n *corev3.Node) string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	return fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}

// stream is the conversation with one Envoy. All its fields belong to the goroutine in serve, except
// applied, which the publisher's mutex guards.
type stream struct {
	server *Publisher
	grpc   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	node   string
	subs   map[string]*subscription // by type
	nonce  uint64

	applied *Resources
}

// subscription is what one Envoy wants of one type, and what it has.
type subscription struct {
	wildcard bool
	names    map[string]bool

	// has holds the version of each resource that Envoy acknowledged; "" where it refused a response, and may
	// or may not have taken this part of it. Such a one is sent again, or removed, at the next change.
	has      map[string]string
	answered bool
	flight   *flight // sent, not answered yet; there is never a second
	retry    time.Time
	refused  *Resources // the world of which something was refused; not offered again before retry
}

type flight struct {
	of      *Resources // the world it belongs to
	nonce   string
	sent    map[string]string // version by name
	removed []string
}

// pause before a refused resource is offered again though nothing changed: what was in the way, such as a port, may be gone.
const pause = 2 * time.Second

func (c *stream) serve(first *discoveryv3.DeltaDiscoveryRequest) error {
	ctx, cancel := context.WithCancel(c.grpc.Context())
	requests, failed := make(chan *discoveryv3.DeltaDiscoveryRequest), make(chan error, 1)
	go func() {
		for {
			r, err := c.grpc.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}() // gRPC ends Recv once this handler has returned; cancel lets it drop a request it holds
	defer cancel()

	again := time.NewTimer(time.Hour)
	defer again.Stop()
	c.take(first)
	for {
		changed, wait, err := c.send()
		if err != nil {
			return err
		}
		again.Reset(wait)
		select {
		case r := <-requests:
			c.take(r)
		case <-changed:
		case <-again.C:
		case err := <-failed:
			return hangup(err)
		case <-ctx.Done():
			return nil
		}
	}
}

// take reads one request: an answer to what was sent, a change of the subscription, or both.
func (c *stream) take(r *discoveryv3.DeltaDiscoveryRequest) {
	sub := c.subs[r.TypeUrl]
	if sub == nil {
		sub = &subscription{names: map[string]bool{}, has: map[string]string{}}
		// An Envoy that comes back says what it still has.
		for n, v := range r.InitialResourceVersions {
			sub.has[n] = v
		}
		sub.wildcard = len(r.ResourceNamesSubscribe) == 0
		c.subs[r.TypeUrl] = sub
	}
	if f := sub.flight; f != nil && r.ResponseNonce == f.nonce {
		sub.settle(r.ErrorDetail == nil)
		if e := r.ErrorDetail; e != nil {
			c.rejected(sub, f.of, &Rejected{Node: c.node, TypeURL: r.TypeUrl, Message: strings.Join(strings.Fields(e.Message), " ")})
		}
	}
	for _, n := range r.ResourceNamesSubscribe {
		if n == "*" {
			sub.wildcard = true
			continue
		}
		sub.names[n] = true
		if _, ok := r.InitialResourceVersions[n]; !ok {
			delete(sub.has, n) // asked for anew: whatever was sent before, it wants it again
		}
	}
	for _, n := range r.ResourceNamesUnsubscribe {
		if n == "*" {
			sub.wildcard = false
			continue
		}
		delete(sub.names, n)
		if !sub.wildcard {
			delete(sub.has, n)
		}
	}
}

// settle notes Envoy's answer to what is in flight.
func (u *subscription) settle(taken bool) {
	f := u.flight
	u.flight = nil
	for n, v := range f.sent {
		if !taken {
			v = ""
		}
		u.has[n] = v
	}
	for _, n := range f.removed {
		if taken {
			delete(u.has, n)
		} else {
			u.has[n] = ""
		}
	}
}

func (c *stream) rejected(sub *subscription, of *Resources, r *Rejected) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.refused, sub.retry = of, time.Now().Add(pause)
	s.nacks++
	if of == s.target { // else it is an echo of a world that was taken back already
		s.nack = r
	}
	s.announceLocked()
	s.log.Error("xds: envoy refuses a resource", "node", r.Node, "type", r.TypeURL, "error", r.Message)
}

// send brings Envoy closer to the target: per type the difference to what it has, one response at a time.
// It returns the channel that tells of the next change, and how long to wait for it at most.
func (c *stream) send() (<-chan struct{}, time.Duration, error) {
	s := c.server
	s.mu.Lock()
	target, changed := s.target, s.changed
	s.mu.Unlock()
	wait := time.Hour
	if target == nil {
		return changed, wait, nil
	}
	for _, t := range sendOrder {
		sub := c.subs[t]
		if sub == nil || sub.flight != nil {
			continue
		}
		if sub.refused == target {
			if left := time.Until(sub.retry); left > 0 {
				wait = min(wait, left)
				continue
			}
		}
		resp, f := sub.difference(target.byType[t])
		if resp == nil {
			continue
		}
		c.nonce++
		f.of, f.nonce = target, strconv.FormatUint(c.nonce, 10)
		resp.TypeUrl, resp.Nonce, resp.SystemVersionInfo = t, f.nonce, target.digest
		s.mu.Lock()
		c.applied = nil // until all of it is acknowledged again: a world that is taken back is not there again by itself
		s.stats.Responses++
		s.stats.Resources += uint64(len(resp.Resources))
		s.stats.Bytes += uint64(deterministic.Size(resp))
		s.mu.Unlock()
		if err := c.grpc.Send(resp); err != nil {
			return nil, 0, hangup(err)
		}
		sub.flight, sub.answered = f, true
	}
	if c.complete(target) {
		s.mu.Lock()
		if c.applied != target && s.target == target {
			c.applied, s.nack = target, nil
			s.announceLocked()
			changed = s.changed
		}
		s.mu.Unlock()
	}
	return changed, wait, nil
}

// difference between what Envoy has and the wanted set; nil if there is none. Removals are told for
// wildcard types only: a name that Envoy subscribed to by itself it also drops by itself, with the listener
// or cluster that used it, and may still need until then.
func (u *subscription) difference(want resourceSet) (*discoveryv3.DeltaDiscoveryResponse, *flight) {
	resp, f := &discoveryv3.DeltaDiscoveryResponse{}, &flight{sent: map[string]string{}}
	offer := func(n string) {
		if r := want[n]; r != nil && u.has[n] != r.Version {
			resp.Resources = append(resp.Resources, r)
			f.sent[n] = r.Version
		}
	}
	if u.wildcard {
		for n := range want {
			offer(n)
		}
		for n := range u.has {
			if want[n] == nil {
				f.removed = append(f.removed, n)
			}
		}
		resp.RemovedResources = f.removed
	} else {
		for n := range u.names {
			offer(n)
		}
	}
	if len(f.sent) == 0 && len(f.removed) == 0 && (u.answered || !u.wildcard) {
		return nil, nil // a wildcard type is answered at least once: Envoy waits for it while it starts
	}
	return resp, f
}

// complete: Envoy has acknowledged everything of the target. Clusters and listeners it takes all; of the
// others each must have been asked for, except secrets, which Envoy asks for when a cluster needs them.
func (c *stream) complete(target *Resources) bool {
	for _, t := range sendOrder {
		sub := c.subs[t]
		if sub == nil {
			if t == typeCluster || t == typeListener || t != typeSecret && len(target.byType[t]) > 0 {
				return false
			}
			continue
		}
		if sub.flight != nil || sub.wildcard && !sub.answered {
			return false
		}
		for n, r := range target.byType[t] {
			if t == typeSecret && !sub.names[n] {
				continue
			}
			if sub.has[n] != r.Version {
				return false
			}
		}
		if sub.wildcard {
			for n := range sub.has {
				if target.byType[t][n] == nil {
					return false
				}
			}
		}
	}
	return true
}

package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/download"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// Source is one place that bundles come from. Once and Run are called by one goroutine at a time, Status by any.
type Source struct {
	opts Options
	keys *bundle.VerificationConfig

	// Of what is asked over a network.
	door   *door
	server *url.URL
	path   string

	client client                      // nil until the first look, and after one that was cut off
	store  string                      // directory of what a registry sent
	looks  int                         // since it was made
	heard  func(download.Update) error // what becomes of the look that is on

	good   string // ETag of the bundle that was last taken
	have   bool   // one was taken
	stale  bool   // OPA's client would go on sending an ETag that is not good any more
	digest [sha256.Size]byte

	mu     sync.Mutex // guards all below
	status Status
}

// client is one of OPA's two downloaders.
type client interface {
	Trigger(ctx context.Context) error
	SetCache(etag string)
}

// Status is what an operator wants to know of a source. Times that have not come are zero.
type Status struct {
	Source    string    `json:"source"`              // path, URL without its query, or image
	Revision  string    `json:"revision,omitempty"`  // of the manifest of the bundle in force
	ETag      string    `json:"etag,omitempty"`      // of the bundle in force
	Signed    bool      `json:"signed"`              // and verified
	Activated time.Time `json:"activated,omitzero"`  // when the bundle in force was taken
	Confirmed time.Time `json:"confirmed,omitzero"`  // when it was last found to be the newest
	Error     string    `json:"error,omitempty"`     // of the last look, if it failed
	ErrorTime time.Time `json:"error_time,omitzero"` // when that error was first seen
	Failures  uint64    `json:"failures"`            // failed looks in all
}

// Take gets a new bundle. An error refuses it: it does not count, and is offered again at the next look.
type Take func(ctx context.Context, c *Content) error

// Open checks the options and reads key and CA certificates. It asks nobody yet. The source is to be closed.
func Open(o Options) (*Source, error) {
	o.setDefaults()
	s := &Source{opts: o, status: Status{Source: o.name()}}
	var err error
	if s.keys, err = o.Verification.config(); err != nil {
		return nil, err
	}
	if o.Path != "" {
		return s, nil
	}
	if s.server, s.path, err = o.place(); err != nil {
		return nil, err
	}
	s.door, err = newDoor(s.server, &o)
	return s, err
}

// Close gives back what the source holds. Nothing of it may run any more.
func (s *Source) Close() {
	if s.door != nil {
		s.door.close()
	}
	s.forget()
}

// Status is how things stand.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Once looks once. For a path it reads what lies there, new or not. An error that is [Absent] says nothing of a bundle.
func (s *Source) Once(ctx context.Context, take Take) error { return s.look(ctx, take) }

// Run looks for new bundles until ctx ends, and gives each to take. It is for what is asked over a network. After a failure it tries
// again soon, then less and less often, but at least as often as it polls. Only the first of equal failures is logged.
func (s *Source) Run(ctx context.Context, take Take) error {
	failures, wait := 0, time.Duration(0)
	if s.have {
		wait = s.rest(0, true)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		before, said, start := s.Status(), s.said(), time.Now()
		err := s.look(ctx, take)
		switch after := s.Status(); {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // its end is what it was cut off by
		case err != nil:
			if said != err.Error() {
				s.opts.Log.Error("no new policy bundle is taken; what was in force before stays", "source", before.Source, "error", err)
			}
			wait = s.pause(backoff(failures, s.opts.Poll))
			failures++
			continue
		case before.Error != "" || before.Activated != after.Activated:
			s.opts.Log.Info("the policy bundle is the newest again", "source", after.Source, "revision", after.Revision, "etag", after.ETag)
		}
		failures, wait = 0, s.rest(time.Since(start), before.Activated != s.Status().Activated)
	}
}

// rest is how long to wait after a good look that took so long. A server that holds requests is asked again soon, but not one that
// says without waiting that there is nothing new.
func (s *Source) rest(took time.Duration, news bool) time.Duration {
	const soon = 20 * time.Millisecond
	switch {
	case s.opts.LongPoll <= 0 || !s.door.longPoll.Load():
		return s.pause(s.opts.Poll)
	case !news && took < time.Second:
		return min(s.opts.Poll, time.Second)
	}
	return soon
}

func (s *Source) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Error
}

// pause spreads the looks of many gateways.
func (s *Source) pause(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// backoff is how long to wait after so many failures before the last.
func backoff(failures int, poll time.Duration) time.Duration {
	const first = 200 * time.Millisecond
	return min(first<<min(failures, 16), poll)
}

// lookTime bounds one look, besides what the server may hold a request.
const lookTime = time.Minute

// look asks once. take hears of a bundle that is not the one taken last.
func (s *Source) look(ctx context.Context, take Take) error {
	if s.door == nil {
		c, err := readPath(s.opts.Path, s.keys, s.opts.MaxBytes)
		if err == nil {
			err = take(ctx, c)
		}
		s.note(c, err)
		return err
	}
	if err := s.prepare(); err != nil {
		s.note(nil, err)
		return err
	}
	tctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(lookTime+s.opts.LongPoll, cancel)
	defer timer.Stop()
	done := make(chan struct{})
	var err error
	s.heard = func(u download.Update) error {
		defer close(done)
		timer.Stop() // what take needs is its own matter
		err = s.hear(ctx, u, take)
		s.client.SetCache(s.good) // also where OPA keeps the ETag of what was refused, or forgets that of what was taken
		return err
	}
	s.door.left.Store(s.opts.MaxBytes + overhead)
	_ = s.client.Trigger(tctx) // its error is the one that heard got or gave
	<-done                     // Trigger does not wait when it is cut off
	if s.stale {
		s.stale = false
		s.forget()
	}
	if tctx.Err() != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w (the server was given %v)", err, lookTime+s.opts.LongPoll)
		}
		s.forget() // its goroutine may still be about to end
	}
	return err
}

// hear judges what a look brought.
func (s *Source) hear(ctx context.Context, u download.Update, take Take) error {
	c, err := (*Content)(nil), error(nil)
	switch {
	case u.Error != nil:
		err = plain(u.Error)
	case u.Bundle != nil:
		if c, err = contentOf(u.Bundle, u.ETag); err != nil {
			break
		}
		if !s.have || c.digest != s.digest { // else a server that gives the same another ETag
			err = take(ctx, c)
		}
		if err == nil {
			s.stale = s.good != "" && c.ETag == ""
			s.good, s.have, s.digest = c.ETag, true, c.digest
		}
	case !s.have:
		err = errors.New("the server says that nothing is new, but nothing was ever had from it")
	}
	s.note(c, err)
	return err
}

// note keeps the status. c is nil if nothing new came.
func (s *Source) note(c *Content, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if err != nil {
		if s.status.Failures++; s.status.Error != err.Error() {
			s.status.Error, s.status.ErrorTime = err.Error(), now
		}
		return
	}
	s.status.Error, s.status.ErrorTime, s.status.Confirmed = "", time.Time{}, now
	if c != nil {
		s.status.Revision, s.status.ETag, s.status.Signed, s.status.Activated = c.Revision, c.ETag, c.Signed, now
	}
}

// maxLooks bounds what gathers in the directory of a registry's client, which keeps every layer it ever had.
const maxLooks = 8

// prepare makes OPA's client.
func (s *Source) prepare() error {
	if s.client != nil && (s.store == "" || s.looks < maxLooks) {
		s.looks++
		return nil
	}
	s.forget()
	kind := ""
	if s.opts.OCI != "" {
		kind = "oci"
	}
	conf, err := json.Marshal(map[string]any{"url": s.server.String(), "type": kind, "credentials": map[string]any{"plugin": "door"}})
	if err != nil {
		return err
	}
	c, err := rest.New(conf, nil, rest.Logger(logging.NewNoOpLogger()), rest.AuthPluginLookup(func(string) rest.HTTPAuthPlugin { return s.door }))
	if err != nil {
		return err
	}
	manual, poll := plugins.TriggerManual, int64(1)
	dc := download.Config{Trigger: &manual, Polling: download.PollingConfig{MinDelaySeconds: &poll, MaxDelaySeconds: &poll}}
	if w := int64(s.opts.LongPoll / time.Second); w > 0 {
		dc.Polling.LongPollingTimeoutSeconds = &w
	}
	if err := dc.ValidateAndInjectDefaults(); err != nil {
		return err
	}
	heard := func(_ context.Context, u download.Update) error { return s.heard(u) }
	if kind == "" {
		s.client = download.New(dc, c, s.path).WithBundleVerificationConfig(s.keys).WithSizeLimitBytes(s.opts.MaxBytes).WithCallback(heard)
	} else {
		dir, err := os.MkdirTemp("", "mcpgw-oci-")
		if err != nil {
			return err
		}
		s.store = dir
		s.client = download.NewOCI(dc, c, s.path, dir).WithBundleVerificationConfig(s.keys).WithSizeLimitBytes(s.opts.MaxBytes).WithCallback(heard)
	}
	s.looks = 1
	s.client.SetCache(s.good)
	return nil
}

// forget drops OPA's client; the next look makes another.
func (s *Source) forget() {
	s.client, s.looks = nil, 0
	if s.store != "" {
		_ = os.RemoveAll(s.store) // a temporary directory that stays harms nothing
		s.store = ""
	}
}

// plain is an error without the layers of clients around it, and without the query of a URL, which may be a secret.
func plain(err error) error {
	var r *Refusal
	var u *url.Error
	var h download.HTTPError
	switch {
	case errors.As(err, &r):
		return &Refusal{r.err}
	case errors.As(err, &u):
		return &absence{fmt.Errorf("%s %s: %w", strings.ToUpper(u.Op), withoutQuery(u.URL), u.Err)}
	case errors.As(err, &h):
		return &absence{fmt.Errorf("the server answers with status %d", h.StatusCode)}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), strings.HasPrefix(err.Error(), "failed to pull"):
		return &absence{err}
	}
	return &Refusal{remedied(err)}
}

// absence is an error of having a bundle at all.
type absence struct{ err error }

func (a *absence) Error() string { return a.err.Error() }
func (a *absence) Unwrap() error { return a.err }

// Absent reports whether an error says nothing of a bundle, because none was had: a server that is down, that wants another token, that
// does not know the path.
func Absent(err error) bool {
	var a *absence
	return errors.As(err, &a)
}

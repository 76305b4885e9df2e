package bundle

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestHTTP: an unchanged bundle is sent once; a changed one is taken; a server that is down loses nothing.
func TestHTTP(t *testing.T) {
	s := newSite(t, false)
	s.put(`"one"`, built(t, "one", nil))
	f := follow(t, Options{URL: s.URL + "/bundles/live.tar.gz"})
	f.awaitRevision(t, "rev-one")
	f.await(t, "304s", func() bool { _, _, same := s.counts(); return same >= 3 })
	if _, fresh, _ := s.counts(); fresh != 1 {
		t.Errorf("the bundle was sent %d times", fresh)
	}
	c := f.took[0]
	if c.ETag != `"one"` || c.Signed || len(c.Modules) != 1 || c.Modules[0].Name != "policy/main.rego" || len(c.Data) != 1 {
		t.Errorf("%+v", c)
	}
	if want := `{"grants":{"git_log":["reader",9007199254740993]}}` + "\n"; string(c.Data[0].Text) != want {
		t.Errorf("data %s, want %s", c.Data[0].Text, want)
	}
	st := f.Status()
	if st.Activated.IsZero() || !st.Confirmed.After(st.Activated) || st.Error != "" || st.Failures != 0 || st.Source != s.URL+"/bundles/live.tar.gz" {
		t.Errorf("%+v", st)
	}

	s.fail(http.StatusServiceUnavailable)
	f.await(t, "the failure shows", func() bool { return strings.Contains(f.Status().Error, "status 503") && f.Status().Failures >= 3 })
	if n := strings.Count(f.log.String(), "no new policy bundle"); n != 1 {
		t.Errorf("the failure was logged %d times", n)
	}
	if st := f.Status(); st.Revision != "rev-one" || st.ETag != `"one"` || st.ErrorTime.IsZero() {
		t.Errorf("%+v", st)
	}
	s.fail(0)
	f.await(t, "it recovers", func() bool { return f.Status().Error == "" })
	if _, fresh, _ := s.counts(); fresh != 1 {
		t.Errorf("after a failure the bundle was sent again, %d times", fresh)
	}
	s.put(`"two"`, built(t, "two", nil))
	f.awaitRevision(t, "rev-two")
	s.put(`"three"`, built(t, "two", nil)) // the same under another ETag
	f.await(t, "the new ETag counts", func() bool { return f.Status().ETag == `"three"` })
	s.put("", built(t, "four", nil)) // no ETag at all
	f.awaitRevision(t, "rev-four")
	if got := f.revisions(); !slices.Equal(got, []string{"rev-one", "rev-two", "rev-four"}) {
		t.Errorf("took %v", got)
	}
	f.await(t, "no old ETag is sent", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.asked[len(s.asked)-1] == "" })
}

// TestLongPoll: the server holds the request, so a change arrives at once though the next poll is an hour away.
func TestLongPoll(t *testing.T) {
	s := newSite(t, false)
	s.long = true
	s.put(`"one"`, built(t, "one", nil))
	f := follow(t, Options{URL: s.URL, Poll: time.Hour, LongPoll: 5 * time.Second})
	f.awaitRevision(t, "rev-one")
	f.await(t, "the request is held", func() bool { gets, _, _ := s.counts(); return gets == 2 })
	s.mu.Lock()
	if !strings.Contains(s.prefer[1], "wait=5") {
		t.Errorf("asked with Prefer: %s", s.prefer[1])
	}
	s.mu.Unlock()
	start := time.Now()
	s.put(`"two"`, built(t, "two", nil))
	f.awaitRevision(t, "rev-two")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the change came after %v", took)
	}
	if gets, _, _ := s.counts(); gets > 4 {
		t.Errorf("%d requests for two bundles", gets)
	}
}

// TestLongPollAfterOnce: whoever looked once and then follows does not wait for the next poll either.
func TestLongPollAfterOnce(t *testing.T) {
	s := newSite(t, false)
	s.long = true
	s.put(`"one"`, built(t, "one", nil))
	src, err := Open(Options{URL: s.URL, Poll: time.Hour, LongPoll: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	f := &follower{Source: src, log: &syncBuffer{}}
	if err := src.Once(t.Context(), f.take); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- src.Run(ctx, f.take) }()
	f.await(t, "the request is held", func() bool { gets, _, _ := s.counts(); return gets == 2 })
	s.put(`"two"`, built(t, "two", nil))
	f.awaitRevision(t, "rev-two")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLongPollThatIsNone: a server that promises to hold requests and does not is asked once a second at most.
func TestLongPollThatIsNone(t *testing.T) {
	s := newSite(t, false)
	s.long, s.deaf = true, true
	s.put(`"one"`, built(t, "one", nil))
	f := follow(t, Options{URL: s.URL, Poll: time.Hour, LongPoll: 5 * time.Second})
	f.awaitRevision(t, "rev-one")
	time.Sleep(300 * time.Millisecond)
	if gets, _, _ := s.counts(); gets > 2 {
		t.Errorf("%d requests within 0.3 s", gets)
	}
}

// TestFirst: as long as there was never a good bundle nothing counts, whatever the server says.
func TestFirst(t *testing.T) {
	s := newSite(t, false)
	s.fail(http.StatusNotModified)
	f := follow(t, Options{URL: s.URL})
	f.await(t, "304 is no answer", func() bool { return strings.Contains(f.Status().Error, "nothing was ever had") })
	s.put(`"bad"`, []byte("x"))
	f.await(t, "garbage", func() bool { return strings.Contains(f.Status().Error, "no .tar.gz") })
	s.mu.Lock()
	s.asked = nil
	s.mu.Unlock()
	f.await(t, "it is fetched again", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.asked) > 1 })
	s.mu.Lock()
	if s.asked[1] != "" {
		t.Errorf("the ETag %s of what was refused is remembered", s.asked[1])
	}
	s.mu.Unlock()
	s.put(`"one"`, built(t, "one", nil))
	f.awaitRevision(t, "rev-one")
}

// TestOnce: what its callback refuses does not count, and comes again.
func TestOnce(t *testing.T) {
	s := newSite(t, false)
	s.put(`"one"`, built(t, "one", nil))
	src, err := Open(Options{URL: s.URL, Poll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := src.Once(t.Context(), func(context.Context, *Content) error { return fmt.Errorf("entry point missing") }); err == nil || Absent(err) {
		t.Error(err)
	}
	if st := src.Status(); st.Error != "entry point missing" || st.Revision != "" || !st.Activated.IsZero() {
		t.Errorf("%+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got *Content
	if err := src.Run(ctx, func(_ context.Context, c *Content) error { got = c; cancel(); return nil }); err != nil || got == nil || got.Revision != "rev-one" {
		t.Error(got, err)
	}
	s.fail(http.StatusUnauthorized)
	if err := src.Once(t.Context(), nil); !Absent(err) {
		t.Error(err)
	}
}

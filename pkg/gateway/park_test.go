package gateway

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// meter is a bound on bytes that a test can read.
type meter struct {
	mu   sync.Mutex
	used int64
	most int64
}

func (m *meter) TryAcquire(n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used+n > m.most {
		return false
	}
	m.used += n
	return true
}

func (m *meter) Release(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used -= n
}

func (m *meter) held() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

func parkable() *Exchange { return &Exchange{Snapshot: &Snapshot{Settings: &Settings{}}} }

func message(t *testing.T, body string) *jsonrpc.Message {
	t.Helper()
	m, err := jsonrpc.Read([]byte(body), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}`

func TestTicketWorksOnce(t *testing.T) {
	g, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ticket := range []string{"", "unknown"} {
		if p := g.Take(ticket); p != nil {
			t.Errorf("the ticket %q gives %+v", ticket, p)
		}
	}
	x, m := parkable(), message(t, ping)
	ticket, err := g.park.put(x, m)
	if err != nil || len(ticket) < 26 {
		t.Fatalf("ticket %q, %v", ticket, err)
	}
	other, err := g.park.put(x, nil)
	if err != nil || other == ticket {
		t.Fatalf("ticket %q, %v", other, err)
	}
	copy(m.Body, "overwritten by the next request") // the rim's buffer is used again
	p := g.Take(ticket)
	if p == nil || p.Exchange != x || string(p.Message.Body) != ping {
		t.Fatalf("got %+v", p)
	}
	p.Done()
	if p := g.Take(ticket); p != nil {
		t.Error("a ticket worked twice")
	}
	if p := g.Take(other); p == nil || p.Message != nil {
		t.Errorf("a parked GET gives %+v", p)
	}
	if g.Parked() != 0 {
		t.Errorf("%d are parked", g.Parked())
	}
}

func TestTicketExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bytes := &meter{most: 1 << 20}
		l := newLot(10, time.Second, bytes)
		var tickets []string
		for range 10 {
			ticket, err := l.put(parkable(), message(t, ping))
			if err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, ticket)
		}
		l.take(tickets[0]).Done()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if l.take(tickets[1]) != nil {
			t.Error("an expired ticket worked")
		}
		if bytes.held() != 0 || l.len() != 0 {
			t.Errorf("%d bytes, %d places are kept of what nobody took", bytes.held(), l.len())
		}
	})
}

func TestLotIsBounded(t *testing.T) {
	bytes := &meter{most: int64(3 * len(ping))}
	l := newLot(5, time.Minute, bytes)
	var tickets []string
	for n := range 3 {
		ticket, err := l.put(parkable(), message(t, ping))
		if err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		tickets = append(tickets, ticket)
	}
	if _, err := l.put(parkable(), message(t, ping)); err == nil {
		t.Error("more bytes than the bound were parked")
	}
	for range 2 {
		if _, err := l.put(parkable(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.put(parkable(), nil); err == nil {
		t.Error("more exchanges than the bound were parked")
	}
	for _, ticket := range tickets {
		p := l.take(ticket)
		p.Done()
		p.Done() // twice gives back once
	}
	if bytes.held() != 0 {
		t.Errorf("%d bytes are held", bytes.held())
	}
}

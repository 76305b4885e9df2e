package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// job is one block of load: a closed loop on every connection, one call at a time. Numbers of ten digits in the body, the request's
// id first, are counted up from call to call; so nothing is built while time is taken.
type job struct {
	Address string
	Heads   [][]byte // HTTP heads, one a connection
	Body    []byte
	Numbers []int         // where they stand in Body
	Want    [2][]byte     // the answer's body before and after the id
	Time    time.Duration // after which no call begins
	Calls   int           // that one connection makes at most
}

// outcome is what came of a job.
type outcome struct {
	Errors    int
	Fault     string        // the first of them
	Took      time.Duration // from the first call's beginning to the last one's end
	Latencies []uint32      // µs, of the calls that were answered rightly
}

const (
	digits      = 10
	firstNumber = 1_000_000_000
	lastNumber  = 9_000_000_000
	patience    = 30 * time.Second // of one call
)

// loadRole takes jobs, a line each. Before the calls that count every connection makes one that does not; then it prints a line and
// waits for one, so that whoever reads the accounts can do so in between.
func loadRole() error {
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), json.NewEncoder(os.Stdout)
	pool := map[string][]*conn{}
	decoder := json.NewDecoder(in)
	number := firstNumber
	for {
		var j job
		if err := decoder.Decode(&j); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		conns := pool[j.Address]
		for len(conns) < len(j.Heads) {
			conns = append(conns, &conn{address: j.Address, id: len(conns)})
		}
		pool[j.Address] = conns
		conns = conns[:len(j.Heads)]
		for i, c := range conns {
			c.prepare(&j, i, number)
		}
		var o outcome
		var warm sync.WaitGroup
		faults := make([]error, len(conns))
		for i, c := range conns {
			warm.Go(func() { faults[i] = c.call(&j) })
		}
		warm.Wait()
		if err := errors.Join(faults...); err != nil {
			o.Errors, o.Fault = len(conns), err.Error()
		}
		if err := out.Encode("ready"); err != nil {
			return err
		}
		var begin string
		if err := decoder.Decode(&begin); err != nil {
			return err
		}
		o.drive(&j, conns)
		for _, c := range conns {
			number = max(number, c.number+1)
		}
		if number > lastNumber { // one digit more would not fit; ids of so long ago may come again
			number = firstNumber
		}
		if err := out.Encode(o); err != nil {
			return err
		}
	}
}

// drive makes the calls that count.
func (o *outcome) drive(j *job, conns []*conn) {
	var mu sync.Mutex
	var group sync.WaitGroup
	began := time.Now()
	for _, c := range conns {
		group.Go(func() {
			var mine []uint32
			var wrong int
			var fault string
			for range j.Calls {
				start := time.Now()
				if start.Sub(began) >= j.Time && len(mine)+wrong > 0 {
					break
				}
				if err := c.call(j); err != nil {
					if wrong++; fault == "" {
						fault = err.Error()
					}
					continue
				}
				mine = append(mine, uint32(time.Since(start).Microseconds()))
			}
			mu.Lock()
			defer mu.Unlock()
			o.Latencies = append(o.Latencies, mine...)
			if o.Errors += wrong; o.Fault == "" {
				o.Fault = fault
			}
		})
	}
	group.Wait()
	o.Took = time.Since(began)
}

// conn is one keep-alive connection. It is kept from job to job.
type conn struct {
	address string
	id      int

	net     net.Conn
	reader  *bufio.Reader
	request []byte
	numbers []int // where they stand in request
	number  int
	step    int
	answer  []byte
}

func (c *conn) prepare(j *job, i, number int) {
	c.request = append(append(c.request[:0], j.Heads[i]...), j.Body...)
	c.numbers = c.numbers[:0]
	for _, at := range j.Numbers {
		c.numbers = append(c.numbers, at+len(j.Heads[i]))
	}
	c.number, c.step = number+i, len(j.Heads) // ids are unique over all connections
}

// call makes one call and checks every byte of its answer. After an error the connection is made anew.
func (c *conn) call(j *job) (err error) {
	defer func() {
		if err != nil && c.net != nil {
			_ = c.net.Close() // it is given up
			c.net = nil
		}
	}()
	if c.net == nil {
		if c.net, err = net.DialTimeout("tcp", c.address, patience); err != nil {
			return err
		}
		c.reader = bufio.NewReaderSize(c.net, 32<<10)
	}
	if err := c.net.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	c.number += c.step
	var id [digits]byte
	strconv.AppendInt(id[:0], int64(c.number), 10)
	for _, at := range c.numbers {
		copy(c.request[at:], id[:])
	}
	if _, err := c.net.Write(c.request); err != nil {
		return err
	}
	status, err := c.read()
	if err != nil {
		return err
	}
	a := c.answer
	if status != 200 || len(a) != len(j.Want[0])+digits+len(j.Want[1]) || !bytes.HasPrefix(a, j.Want[0]) ||
		!bytes.Equal(a[len(j.Want[0]):][:digits], id[:]) || !bytes.HasSuffix(a, j.Want[1]) {
		return fmt.Errorf("status %d, id %s, wrong answer: %.300q", status, id, a)
	}
	return nil
}

// read reads one HTTP answer into c.answer.
func (c *conn) read() (status int, err error) {
	line, err := c.line()
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length, chunked := 0, false
	for {
		line, err := c.line()
		if err != nil {
			return 0, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > 1<<28 {
				return 0, fmt.Errorf("content-length %q", value)
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		}
	}
	c.answer = c.answer[:0]
	if !chunked {
		return status, c.take(length)
	}
	for {
		line, err := c.line()
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseUint(string(line), 16, 28)
		if err != nil {
			return 0, err
		}
		if err := c.take(int(n)); err != nil {
			return 0, err
		}
		if line, err := c.line(); err != nil || len(line) > 0 {
			return 0, fmt.Errorf("after a chunk: %q %w", line, err)
		}
		if n == 0 {
			return status, nil
		}
	}
}

func (c *conn) line() ([]byte, error) {
	b, err := c.reader.ReadSlice('\n')
	return bytes.TrimRight(b, "\r\n"), err
}

func (c *conn) take(n int) error {
	have := len(c.answer)
	c.answer = slices.Grow(c.answer, n)[:have+n]
	_, err := io.ReadFull(c.reader, c.answer[have:])
	return err
}

package decision

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// file is an output that is renamed when it is full. It belongs to one goroutine.
type file struct {
	path   string
	most   int64
	keep   int
	f      *os.File
	size   int64
	torn   bool // the last line may be half a one
	looked time.Time
}

func openFile(path string, most int64, keep int) (*file, error) {
	o := &file{path: path, most: most, keep: keep}
	return o, o.open()
}

func (o *file) open() error {
	info, err := os.Stat(o.path)
	if err == nil && !info.Mode().IsRegular() { // a pipe would wait for its reader
		return fmt.Errorf("%s is no regular file", o.path)
	}
	f, err := os.OpenFile(o.path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err = f.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 { // questions are not for everybody
		err = f.Chmod(0o600)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return err
	}
	o.f, o.size, o.looked = f, info.Size(), time.Now()
	last := []byte{'\n'}
	if o.size > 0 {
		_, err = f.ReadAt(last, o.size-1)
	}
	o.torn = last[0] != '\n' || err != nil // whoever wrote before was killed
	return nil
}

func (o *file) close() {
	if o.f != nil {
		_ = o.f.Close() // lines are written as they come; there is nothing left to fail
		o.f = nil
	}
}

// write appends a whole line, or nothing that a reader takes for one.
func (o *file) write(line []byte) error {
	if o.f != nil && time.Since(o.looked) > time.Second { // someone may have moved the file away
		o.looked = time.Now()
		there, err := os.Stat(o.path)
		if ours, e := o.f.Stat(); err != nil || e != nil || !os.SameFile(there, ours) {
			o.close()
		}
	}
	if o.f != nil && o.size > 0 && o.size+int64(len(line)) > o.most {
		o.close()
		if err := o.rename(); err != nil {
			return errors.Join(err, o.reopen(line))
		}
	}
	return o.reopen(line)
}

func (o *file) reopen(line []byte) error {
	if o.f == nil {
		if err := o.open(); err != nil {
			return err
		}
	}
	if o.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := o.f.Write(line)
	o.size += int64(n)
	o.torn = err != nil && (n > 0 || o.torn)
	return err
}

// rename counts the old files up: FILE.1 is the newest.
func (o *file) rename() error {
	if o.keep == 0 {
		return os.Remove(o.path)
	}
	name := func(i int) string { return fmt.Sprintf("%s.%d", o.path, i) }
	for i := o.keep - 1; i > 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.Rename(o.path, name(1))
}

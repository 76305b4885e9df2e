package stdio

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// errLineTooLong ends a child: what follows an oversized line could not be told apart from its rest.
var errLineTooLong = errors.New("a line on stdout exceeds the bound")

// lineReader cuts a child's stdout into lines of at most max bytes. Its memory never exceeds max plus the copy of one growth step.
type lineReader struct {
	br  *bufio.Reader
	max int
}

func newLineReader(r io.Reader, max int) *lineReader {
	return &lineReader{br: bufio.NewReaderSize(r, 64<<10), max: max}
}

// next returns the next line that is not blank, without its end; the bytes are the caller's. Carriage returns, which between JSON
// tokens mean nothing, become spaces, so that the line can be an event of a stream.
func (l *lineReader) next() ([]byte, error) {
	for {
		line, err := l.line()
		line = bytes.TrimSpace(line)
		if len(line) > 0 {
			blank(line, '\r')
			return line, nil // an error that came with the last line comes again
		}
		if err != nil {
			return nil, err
		}
	}
}

func (l *lineReader) line() ([]byte, error) {
	part, err := l.br.ReadSlice('\n')
	if len(part) > l.max {
		return nil, fmt.Errorf("%w: more than %d bytes", errLineTooLong, l.max)
	}
	line := bytes.Clone(part)
	for errors.Is(err, bufio.ErrBufferFull) {
		part, err = l.br.ReadSlice('\n')
		if len(line)+len(part) > l.max {
			return nil, fmt.Errorf("%w: more than %d bytes", errLineTooLong, l.max)
		}
		if need := len(line) + len(part); need > cap(line) {
			grown := make([]byte, len(line), min(max(2*cap(line), need), l.max))
			copy(grown, line)
			line = grown
		}
		line = append(line, part...)
	}
	return line, err
}

// blank makes every c in b a space.
func blank(b []byte, c byte) {
	for i := bytes.IndexByte(b, c); i >= 0; i = bytes.IndexByte(b, c) {
		b[i], b = ' ', b[i+1:]
	}
}

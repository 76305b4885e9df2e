package gateway_test

// lines is a head as a rim shows it.
type lines [][2]string

func (l lines) Get(name string) string {
	for _, h := range l {
		if h[0] == name {
			return h[1]
		}
	}
	return ""
}

func (l lines) Values(name string) (out []string) {
	for _, h := range l {
		if h[0] == name {
			out = append(out, h[1])
		}
	}
	return out
}

func (l lines) Names() (out []string) {
	for _, h := range l {
		out = append(out, h[0])
	}
	return out
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}`

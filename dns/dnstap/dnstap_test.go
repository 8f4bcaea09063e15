package dnstap

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// decode reads a protocol buffer into text by field number, and what is nested of
// the fields given.
func decode(t testing.TB, b []byte) map[int]any {
	t.Helper()
	out := map[int]any{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			out[int(num)], b = v, b[n:]
		case protowire.Fixed32Type:
			v, n := protowire.ConsumeFixed32(b)
			out[int(num)], b = v, b[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				t.Fatal(protowire.ParseError(n))
			}
			out[int(num)], b = string(v), b[n:]
		default:
			t.Fatalf("field %d of type %d", num, typ)
		}
	}
	return out
}

// observe accepts one stream and returns its frames at its end.
func observe(l net.Listener) ([][]byte, error) {
	c, err := l.Accept()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if kind, types, err := readControl(c); err != nil || kind != controlReady || len(types) != 1 {
		return nil, fmt.Errorf("ready: %d %v %w", kind, types, err)
	}
	if _, err := c.Write(control(controlAccept, true)); err != nil {
		return nil, err
	}
	if kind, _, err := readControl(c); err != nil || kind != controlStart {
		return nil, fmt.Errorf("start: %d %w", kind, err)
	}
	var frames [][]byte
	for {
		var length [4]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return frames, err
		}
		n := binary.BigEndian.Uint32(length[:])
		if n == 0 {
			rest := io.MultiReader(bytes.NewReader(length[:]), c)
			if kind, _, err := readControl(rest); err != nil || kind != controlStop {
				return frames, fmt.Errorf("stop: %d %w", kind, err)
			}
			_, err := c.Write(control(controlFinish, false))
			return frames, err
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(c, frame); err != nil {
			return frames, err
		}
		frames = append(frames, frame)
	}
}

func TestStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tap")
	s, err := New(Options{Socket: "unix://" + path, Identity: "node1", Version: "sluice", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	now := time.Unix(1_700_000_000, 42)
	m := Message{
		Client: netip.MustParseAddrPort("10.0.0.1:4000"), Server: netip.MustParseAddrPort("169.254.20.10:53"), Protocol: UDP,
		Query: []byte("query"), Received: now,
	}
	s.Send(&m)
	m.Response, m.Answered, m.Protocol = []byte("response"), now.Add(time.Second), TCP
	m.Client = netip.MustParseAddrPort("[fd00::1]:4000")
	s.Send(&m)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	go func() {
		for {
			if sent, _ := s.Counts(); sent == 2 {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	frames, err := observe(l)
	if err != nil || len(frames) != 2 {
		t.Fatal(len(frames), err)
	}
	<-done
	query, response := decode(t, frames[0]), decode(t, frames[1])
	if query[1] != "node1" || query[2] != "sluice" || query[15] != uint64(1) {
		t.Errorf("frame %v", query)
	}
	got := decode(t, []byte(query[14].(string)))
	want := map[int]any{
		1: uint64(5), 2: uint64(1), 3: uint64(1), 4: "\x0a\x00\x00\x01", 5: "\xa9\xfe\x14\x0a", 6: uint64(4000), 7: uint64(53),
		8: uint64(1_700_000_000), 9: uint32(42), 10: "query",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("query\n got %v\nwant %v", got, want)
	}
	got = decode(t, []byte(response[14].(string)))
	if got[1] != uint64(6) || got[2] != uint64(2) || got[3] != uint64(2) || got[12] != uint64(1_700_000_001) || got[13] != uint32(42) || got[14] != "response" || got[10] != nil {
		t.Errorf("response %v", got)
	}
}

// TestNobodyTakesThem proves that nobody waits for an observer that is not there or
// does not read.
func TestNobodyTakesThem(t *testing.T) {
	s, err := New(Options{Socket: "unix:///nonexistent/tap", Queue: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		s.Send(&Message{Query: []byte("x")})
	}
	if sent, dropped := s.Counts(); sent != 0 || dropped != 3 {
		t.Errorf("sent %d, dropped %d", sent, dropped)
	}
}

func TestParseSocket(t *testing.T) {
	for text, want := range map[string]string{
		"unix:///run/tap.sock": "unix /run/tap.sock", "tcp://10.0.0.1:6000": "tcp 10.0.0.1:6000",
		"udp://10.0.0.1:1": "", "unix://rel": "", "/run/tap": "", "tcp://10.0.0.1": "",
	} {
		network, address, err := ParseSocket(text)
		if got := network + " " + address; (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// FuzzReadControl proves that an observer cannot break its sender.
func FuzzReadControl(f *testing.F) {
	f.Add(control(controlAccept, true))
	f.Add(control(controlFinish, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		if kind, types, err := readControl(bytes.NewReader(b)); err == nil && len(types) == 1 && types[0] == contentType && kind == controlAccept {
			if len(b) < len(control(kind, true)) {
				t.Errorf("%q is too short", b)
			}
		}
	})
}

// Package remote lets a test act from inside a Pod: open connections as an
// application there does, see its resolv.conf, and kill a container of its node.
//
// `sluice remote` runs in the Pod and is spoken to over its standard input and
// output, which is what `kubectl exec -i` offers, so the Pod needs no port and
// no other program. It is HTTP/2, with a stream for each connection.
package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Paths of what can be asked for.
const (
	pathDial   = "/dial"        // the body goes to a connection, and the answer comes from it
	pathResolv = "/resolv.conf" // of the Pod
	pathKill   = "/kill"        // SIGKILL for the processes of a container
)

// dialTimeout is how long the connection that is asked for may take.
const dialTimeout = 5 * time.Second

// Serve answers on a connection until it ends.
func Serve(in io.Reader, out io.WriteCloser) error {
	mux := http.NewServeMux()
	mux.HandleFunc(pathDial, dial)
	mux.HandleFunc(pathResolv, func(w http.ResponseWriter, _ *http.Request) {
		b, err := os.ReadFile("/etc/resolv.conf")
		reply(w, b, err)
	})
	mux.HandleFunc(pathKill, func(w http.ResponseWriter, r *http.Request) {
		n, err := kill("/proc", r.FormValue("container"))
		reply(w, strconv.AppendInt(nil, int64(n), 10), err)
	})
	server := &http.Server{Handler: mux, Protocols: onlyHTTP2(), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 100_000}}
	ended := make(chan struct{})
	conn := &pipeConn{Reader: in, WriteCloser: out, closed: ended}
	err := server.Serve(&oneListener{conn: conn, ended: ended})
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func onlyHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func reply(w http.ResponseWriter, b []byte, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_, _ = w.Write(b)
}

// dial connects a stream with a new connection. Datagrams are framed.
func dial(w http.ResponseWriter, r *http.Request) {
	network := r.FormValue("network")
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(r.Context(), network, r.FormValue("address"))
	if err != nil {
		reply(w, nil, err)
		return
	}
	defer func() { _ = conn.Close() }()
	w.WriteHeader(http.StatusOK)
	out := &flushing{w, http.NewResponseController(w)}
	if out.control.Flush() != nil {
		return
	}
	go func() {
		_ = transfer(conn, r.Body, isDatagram(network), false)
		_ = conn.Close()
	}()
	_ = transfer(out, conn, false, isDatagram(network))
}

type flushing struct {
	io.Writer
	control *http.ResponseController
}

func (f *flushing) Write(b []byte) (int, error) {
	n, err := f.Writer.Write(b)
	return n, errors.Join(err, f.control.Flush())
}

func isDatagram(network string) bool { return strings.HasPrefix(network, "udp") }

// transfer copies until an end. A framed side has two bytes of length, big
// endian, before each datagram; the other side keeps datagrams apart itself.
func transfer(to io.Writer, from io.Reader, fromFramed, toFramed bool) error {
	if !fromFramed && !toFramed {
		_, err := io.Copy(to, from)
		return err
	}
	buf := make([]byte, 2+65535)
	for {
		n := 0
		var err error
		if fromFramed {
			if _, err = io.ReadFull(from, buf[:2]); err == nil {
				n = int(binary.BigEndian.Uint16(buf))
				_, err = io.ReadFull(from, buf[2:2+n])
			}
		} else {
			n, err = from.Read(buf[2:])
		}
		if err != nil {
			return err
		}
		out := buf[2 : 2+n]
		if toFramed {
			binary.BigEndian.PutUint16(buf, uint16(n))
			out = buf[:2+n]
		}
		if _, err := to.Write(out); err != nil {
			return err
		}
	}
}

// kill sends SIGKILL to the processes in the control groups of a container,
// which are named by its identifier, and returns how many there were.
func kill(proc, container string) (int, error) {
	if len(container) < 32 {
		return 0, fmt.Errorf("expected the identifier of a container, found %q", container)
	}
	dirs, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		pid, notPID := strconv.Atoi(filepath.Base(dir))
		if err != nil || notPID != nil || !strings.Contains(string(b), container) {
			continue // not of the container, or gone already
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			errs = append(errs, fmt.Errorf("kill %d: %w", pid, err))
			continue
		}
		n++
	}
	if n == 0 {
		errs = append(errs, fmt.Errorf("no process of container %s is seen here", container))
	}
	return n, errors.Join(errs...)
}

func query(path string, values url.Values) string {
	return (&url.URL{Scheme: "http", Host: "remote", Path: path, RawQuery: values.Encode()}).String()
}

// Package echo is the server behind the examples, the demo and the tests: it says
// which workload answered and whom it saw, over HTTP, TCP and UDP.
package echo

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Answer is what the HTTP server says, as JSON.
type Answer struct {
	// Name is the server's name, in a cluster the pod's.
	Name string `json:"name"`
	// Client is the address and port that the connection came from.
	Client string `json:"client"`
	// Host, Method and Path are the request's.
	Host   string `json:"host"`
	Method string `json:"method"`
	Path   string `json:"path"`
	// PeerID is the caller's SPIFFE identity as the server's sidecar has proved
	// it: the URI in x-forwarded-client-cert, empty for plaintext.
	PeerID string `json:"peerID,omitempty"`
	// Headers are the request's, with the values of one name joined by ", ".
	Headers map[string]string `json:"headers"`
}

// Handler answers every HTTP request with an [Answer].
func Handler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := Answer{
			Name: name, Client: r.RemoteAddr, Host: r.Host, Method: r.Method, Path: r.URL.RequestURI(),
			PeerID: PeerID(r.Header.Get("X-Forwarded-Client-Cert")), Headers: map[string]string{},
		}
		for key, values := range r.Header {
			answer.Headers[strings.ToLower(key)] = strings.Join(values, ", ")
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	})
}

// PeerID finds the URI of the last certificate in an x-forwarded-client-cert
// header, which is the one the nearest proxy added. It returns "" for none.
//
// Elements are separated by commas and their pairs by semicolons, and values
// with either are quoted, with backslashes before inner quotes (Envoy's HTTP
// connection manager documentation, "x-forwarded-client-cert").
func PeerID(header string) string {
	id, key, value := "", "", ""
	quoted, inValue := false, false
	end := func() {
		if strings.EqualFold(strings.TrimSpace(key), "uri") {
			id = value
		}
		key, value, inValue = "", "", false
	}
	for i := 0; i < len(header); i++ {
		c := header[i]
		switch {
		case quoted && c == '\\' && i+1 < len(header):
			i++
			value += string(header[i])
		case inValue && c == '"':
			quoted = !quoted
		case !quoted && c == ';':
			end()
		case !quoted && c == ',':
			end()
			if i+1 < len(header) {
				id = "" // a later element counts, also without a URI
			}
		case !inValue && c == '=':
			inValue = true
		case inValue:
			value += string(c)
		default:
			key += string(c)
		}
	}
	end()
	return id
}

// ServeTCP says the server's name and the client's address in a line to every
// connection, "web-1 10.244.1.10:40123", and then sends back what it receives,
// until the listener is closed.
func ServeTCP(ln net.Listener, name string) error {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, name+" "+unmapped(conn.RemoteAddr())+"\n"); err == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}

// ServeUDP answers every datagram with the same line, until the socket is closed.
func ServeUDP(conn net.PacketConn, name string) error {
	var buf [2048]byte
	for {
		_, from, err := conn.ReadFrom(buf[:])
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		// A lost answer is the client's to notice.
		_, _ = conn.WriteTo([]byte(name+" "+unmapped(from)+"\n"), from)
	}
}

// unmapped writes an IPv4 client of a dual-stack socket as IPv4.
func unmapped(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}

// Listeners opens the sockets of a [Server]; net.Listen and net.ListenPacket do,
// and so do a namespace's.
type Listeners interface {
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
}

// Host opens sockets where the process runs.
type Host struct{}

// Listen is [net.Listen].
func (Host) Listen(network, address string) (net.Listener, error) {
	return net.Listen(network, address)
}

// ListenPacket is [net.ListenPacket].
func (Host) ListenPacket(network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, address)
}

// Config says what a server listens on; an empty address leaves a protocol out.
type Config struct {
	Name           string
	HTTP, TCP, UDP string
}

// Server is a running echo server.
type Server struct {
	closers []io.Closer
	running sync.WaitGroup
}

// Start opens the sockets and serves them until Close.
func Start(config Config, sockets Listeners) (*Server, error) {
	s := &Server{}
	if config.HTTP != "" {
		ln, err := sockets.Listen("tcp", config.HTTP)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		server := &http.Server{Handler: Handler(config.Name), ReadHeaderTimeout: 10 * time.Second}
		s.serve(server, func() { _ = server.Serve(ln) })
	}
	if config.TCP != "" {
		ln, err := sockets.Listen("tcp", config.TCP)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.serve(ln, func() { _ = ServeTCP(ln, config.Name) })
	}
	if config.UDP != "" {
		conn, err := sockets.ListenPacket("udp", config.UDP)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.serve(conn, func() { _ = ServeUDP(conn, config.Name) })
	}
	return s, nil
}

func (s *Server) serve(c io.Closer, f func()) {
	s.closers = append(s.closers, c)
	s.running.Go(f)
}

// Close closes the sockets and waits until nothing listens any more.
func (s *Server) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	s.running.Wait()
	return errors.Join(errs...)
}

// Run serves until the context ends.
func Run(ctx context.Context, config Config) error {
	s, err := Start(config, Host{})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}

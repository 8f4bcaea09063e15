// Package apiserver is as much of a Kubernetes API server as a service proxy
// reads: list and watch of typed objects, from memory, in JSON and in protobuf.
// What is measured with it has the costs of the proxy alone, and the same ones
// for each.
package apiserver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

// The media types that are spoken.
const (
	jsonType     = "application/json"
	protobufType = "application/vnd.kubernetes.protobuf"
)

// Object is an API object of a type that client-go knows.
type Object interface {
	runtime.Object
	metav1.Object
}

// Server is the API server. It is an [http.Handler].
type Server struct {
	mu      sync.Mutex // guards all below
	version uint64
	tables  map[string]*table // by the path of the resource
}

// table is one resource: its objects and all that ever happened to them.
type table struct {
	list    schema.GroupVersionKind
	objects map[string]Object
	events  []event
	changed chan struct{} // closed at the next event
}

type event struct {
	version uint64
	kind    string // ADDED, MODIFIED, DELETED
	object  Object
}

// New returns a server that knows some resources, without any objects: each by
// its kind and its plural in lower case, such as "services".
func New(resources map[schema.GroupVersionKind]string) *Server {
	s := &Server{version: 1, tables: map[string]*table{}}
	for gvk, plural := range resources {
		list := gvk
		list.Kind += "List"
		s.tables[path(gvk.GroupVersion(), plural)] = &table{list: list, objects: map[string]Object{}, changed: make(chan struct{})}
	}
	return s
}

func path(gv schema.GroupVersion, plural string) string {
	if gv.Group == "" {
		return "/api/" + gv.Version + "/" + plural
	}
	return "/apis/" + gv.Group + "/" + gv.Version + "/" + plural
}

// Put adds objects, or replaces them. It panics on a kind that the server was
// not made for.
func (s *Server) Put(objects ...Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		t := s.tableOf(o)
		key := o.GetNamespace() + "/" + o.GetName()
		kind := "ADDED"
		if _, ok := t.objects[key]; ok {
			kind = "MODIFIED"
		}
		s.record(t, kind, o)
		t.objects[key] = o
	}
}

// Delete removes objects that are there.
func (s *Server) Delete(objects ...Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		t := s.tableOf(o)
		s.record(t, "DELETED", o)
		delete(t.objects, o.GetNamespace()+"/"+o.GetName())
	}
}

func (s *Server) tableOf(o Object) *table {
	gvks, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		panic(err)
	}
	o.GetObjectKind().SetGroupVersionKind(gvks[0])
	for _, t := range s.tables {
		if t.list.GroupVersion() == gvks[0].GroupVersion() && t.list.Kind == gvks[0].Kind+"List" {
			return t
		}
	}
	panic("apiserver: not a resource of this server: " + gvks[0].String())
}

func (s *Server) record(t *table, kind string, o Object) {
	s.version++
	o.SetResourceVersion(strconv.FormatUint(s.version, 10))
	t.events = append(t.events, event{s.version, kind, o})
	close(t.changed)
	t.changed = make(chan struct{})
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/version" {
		w.Header().Set("Content-Type", jsonType)
		_, _ = w.Write([]byte(`{"major":"1","minor":"36","gitVersion":"v1.36.0"}`))
		return
	}
	t, name := s.find(r.URL.Path)
	switch {
	case r.Method != http.MethodGet:
		// Events and status, which nobody reads here.
		w.Header().Set("Content-Type", jsonType)
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Success"}`))
	case t == nil:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	case name != "":
		s.get(w, r, t, name)
	case r.URL.Query().Get("watch") != "":
		s.watch(w, r, t)
	default:
		s.list(w, r, t)
	}
}

// find returns the resource of a path, and the name of an object without a
// namespace.
func (s *Server) find(path string) (*table, string) {
	if t := s.tables[path]; t != nil {
		return t, ""
	}
	at := strings.LastIndexByte(path, '/')
	return s.tables[path[:max(at, 0)]], path[at+1:]
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, t *table, name string) {
	s.mu.Lock()
	o, ok := t.objects["/"+name]
	s.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	reply(w, r, o)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, t *table) {
	list, err := scheme.Scheme.New(t.list)
	if err != nil {
		panic(err)
	}
	list.GetObjectKind().SetGroupVersionKind(t.list)
	s.mu.Lock()
	objects, version := t.all(), s.version
	s.mu.Unlock()
	if err := meta.SetList(list, objects); err != nil {
		panic(err)
	}
	if l, ok := list.(metav1.ListInterface); ok {
		l.SetResourceVersion(strconv.FormatUint(version, 10))
	}
	reply(w, r, list)
}

func (t *table) all() []runtime.Object {
	out := make([]runtime.Object, 0, len(t.objects))
	for _, o := range t.objects {
		out = append(out, o)
	}
	return out
}

func reply(w http.ResponseWriter, r *http.Request, o runtime.Object) {
	w.Header().Set("Content-Type", media(r))
	_, _ = w.Write(encode(media(r), o))
}

// media chooses the media type of the answer.
func media(r *http.Request) string {
	if strings.Contains(r.Header.Get("Accept"), protobufType) {
		return protobufType
	}
	return jsonType
}

func encode(media string, o runtime.Object) []byte {
	var b bytes.Buffer
	var err error
	if media == protobufType {
		err = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(o, &b)
	} else {
		err = json.NewEncoder(&b).Encode(o)
	}
	if err != nil {
		panic(fmt.Sprintf("apiserver: encode %T: %v", o, err))
	}
	return b.Bytes()
}

// watch sends what happened since the client's version, or all there is and
// then a bookmark, if the client asks for that instead of a list (KEP-3157).
func (s *Server) watch(w http.ResponseWriter, r *http.Request, t *table) {
	q := r.URL.Query()
	m := media(r)
	if m == protobufType {
		w.Header().Set("Content-Type", protobufType+";stream=watch")
	} else {
		w.Header().Set("Content-Type", jsonType)
	}
	flusher, ok := w.(http.Flusher)
	if !ok {
		panic("apiserver: cannot stream")
	}
	seen, _ := strconv.ParseUint(q.Get("resourceVersion"), 10, 64)
	s.mu.Lock()
	var first []event
	initial := q.Get("sendInitialEvents") == "true"
	if initial || seen == 0 {
		for _, o := range t.objects {
			first = append(first, event{0, "ADDED", o})
		}
		seen = s.version
	}
	s.mu.Unlock()
	for _, e := range first {
		_, _ = w.Write(frame(m, e.kind, e.object))
	}
	if initial {
		_, _ = w.Write(frame(m, "BOOKMARK", s.bookmark(t, seen)))
	}
	flusher.Flush()
	for {
		s.mu.Lock()
		from, _ := slices.BinarySearchFunc(t.events, seen+1, func(e event, v uint64) int { return int(e.version) - int(v) })
		next, changed := t.events[from:], t.changed
		s.mu.Unlock()
		for _, e := range next {
			if _, err := w.Write(frame(m, e.kind, e.object)); err != nil {
				return
			}
			seen = e.version
		}
		if len(next) > 0 {
			flusher.Flush()
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// bookmark returns an object of the table's kind that only says a version.
func (s *Server) bookmark(t *table, version uint64) Object {
	gvk := t.list
	gvk.Kind = strings.TrimSuffix(gvk.Kind, "List")
	o, err := scheme.Scheme.New(gvk)
	if err != nil {
		panic(err)
	}
	b, ok := o.(Object)
	if !ok {
		panic(fmt.Sprintf("apiserver: %T is no object", o))
	}
	b.GetObjectKind().SetGroupVersionKind(gvk)
	b.SetResourceVersion(strconv.FormatUint(version, 10))
	b.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	return b
}

// frame encodes an event of a watch.
func frame(media, kind string, o Object) []byte {
	e := &metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: encode(media, o)}}
	if media != protobufType {
		b, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		return b
	}
	var b bytes.Buffer
	if err := protobuf.NewRawSerializer(scheme.Scheme, scheme.Scheme).Encode(e, &b); err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(b.Len())), b.Bytes()...)
}

// Receives Magnetite's webhooks, with the standard library alone:
//
//	WEBHOOK_SECRET=whsec_... PORT=3000 go run receiver.go
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	bodyBytesMax  = 256 * 1024 // no event is larger
	rememberedMax = 10_000
	toleranceS    = 300
)

type event struct {
	Event     string `json:"event"`
	LeadID    string `json:"lead_id"`
	Timestamp int64  `json:"timestamp"`
	id        string
}

var (
	// May hold the old and the new one, separated by a comma. With one alone nothing is lost either while it is being changed.
	secrets    = strings.Fields(strings.ReplaceAll(os.Getenv("WEBHOOK_SECRET"), ",", " "))
	isSimple   = os.Getenv("WEBHOOK_SCHEME") == "x-magnetite-signature"
	mutex      sync.Mutex
	remembered = map[string]bool{}
	order      []string // of what is remembered
	queue      = make(chan event, 1_000)
)

func sum(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

// Standard Webhooks: id, time and body are signed, and what is older than five minutes is refused.
func standardWebhooks(secret string, h http.Header, body string) bool {
	id, at := h.Get("webhook-id"), h.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	age := time.Now().Unix() - seconds
	if err != nil || age > toleranceS || age < -toleranceS {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) == 0 {
		log.Fatal("WEBHOOK_SECRET is not whsec_ and base64")
	}
	expected := "v1," + base64.StdEncoding.EncodeToString(sum(key, id+"."+at+"."+body))
	for _, signature := range strings.Fields(h.Get("webhook-signature")) { // two while the secret is being changed
		if hmac.Equal([]byte(signature), []byte(expected)) {
			return true
		}
	}
	return false
}

// The simple alternative: the body alone is signed.
func magnetiteSignature(secret string, h http.Header, body string) bool {
	expected := "sha256=" + hex.EncodeToString(sum([]byte(secret), body))
	return hmac.Equal([]byte(h.Get("X-Magnetite-Signature")), []byte(expected))
}

func isGenuine(h http.Header, body string) bool {
	verify := standardWebhooks
	if isSimple {
		verify = magnetiteSignature
	}
	for _, secret := range secrets {
		if verify(secret, h, body) {
			return true
		}
	}
	return false
}

// Remember, then answer. In production insert id and body into a table with a unique key on the id, commit, answer, and
// let a job work on the table: this memory ends with the process.
func take(e event) int {
	mutex.Lock()
	defer mutex.Unlock()
	if remembered[e.id] {
		return http.StatusOK
	}
	select {
	case queue <- e:
	default:
		return http.StatusServiceUnavailable // it comes again
	}
	remembered[e.id] = true
	if order = append(order, e.id); len(order) > rememberedMax {
		delete(remembered, order[0])
		order = order[1:]
	}
	return http.StatusOK
}

func receive(w http.ResponseWriter, r *http.Request) int {
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax)) // the bytes as they came
	if err != nil {
		return http.StatusRequestEntityTooLarge
	}
	if !isGenuine(r.Header, string(body)) {
		return http.StatusUnauthorized
	}
	e := event{id: r.Header.Get("webhook-id")}
	if json.Unmarshal(body, &e) != nil || e.Event == "" {
		return http.StatusBadRequest
	}
	if isSimple { // only what is signed can tell duplicates apart
		e.id = fmt.Sprintf("%s/%d", e.LeadID, e.Timestamp)
	}
	return take(e)
}

func main() {
	go func() {
		for e := range queue {
			fmt.Println("processed", e.id, e.Event) // what takes time goes here
		}
	}()
	http.HandleFunc("/webhook", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(receive(w, r)) })
	server := http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT"), ReadTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}

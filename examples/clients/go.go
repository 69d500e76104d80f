// Go: posts one event to gmfy-sidecar and goes on.
// 503, 500 and no answer are tried again, after Retry-After where it is given, with the same
// Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer
// says how.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

type Event struct {
	UserID string `json:"userId"`
	Type   string `json:"type"`
}

var client = &http.Client{Timeout: 2 * time.Second}

func send(url string, event Event) error {
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	for attempt := 0; attempt < 3; attempt++ {
		request, requestErr := http.NewRequest("POST", url, bytes.NewReader(body))
		if requestErr != nil {
			return requestErr
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", fmt.Sprintf("%x", key))
		wait := 1
		var answer *http.Response
		if answer, err = client.Do(request); err == nil {
			said, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			if answer.StatusCode < 300 {
				return nil
			}
			err = fmt.Errorf("%s %s", answer.Status, said)
			if answer.StatusCode < 500 {
				return err
			}
			if after, notGiven := strconv.Atoi(answer.Header.Get("Retry-After")); notGiven == nil {
				wait = after
			}
			if wait > 5 {
				wait = 5
			}
		}
		time.Sleep(time.Duration(wait) * time.Second)
	}
	return err
}

func main() {
	url := os.Getenv("GMFY_SIDECAR_URL")
	if url == "" {
		url = "http://127.0.0.1:7460/"
	}
	if err := send(url+"v1/events/", Event{UserID: "ada", Type: "register"}); err != nil {
		fmt.Fprintln(os.Stderr, "event not taken:", err)
		os.Exit(1)
	}
}

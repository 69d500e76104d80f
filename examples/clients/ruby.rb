# Ruby: posts one event to gmfy-sidecar and goes on.
# 503, 500 and no answer are tried again, after Retry-After where it is given, with the same
# Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer
# says how.
require "json"
require "net/http"
require "securerandom"

ENDPOINT = URI(ENV.fetch("GMFY_SIDECAR_URL", "http://127.0.0.1:7460/") + "v1/events/")

def send_event(event)
  headers = { "Content-Type" => "application/json", "Idempotency-Key" => SecureRandom.uuid }
  problem = nil
  3.times do
    wait = 1
    begin
      http = Net::HTTP.new(ENDPOINT.host, ENDPOINT.port, nil)
      http.open_timeout = http.read_timeout = 2
      http.max_retries = 0
      answer = http.post(ENDPOINT.path, JSON.generate(event), headers)
      return true if answer.is_a?(Net::HTTPSuccess)

      problem = "#{answer.code} #{answer.body}"
      break if answer.code.to_i < 500

      wait = [Integer(answer["Retry-After"] || 1), 5].min
    rescue SystemCallError, IOError, Timeout::Error => error
      problem = error.message
    end
    sleep wait
  end
  warn "event not taken: #{problem}"
  false
end

exit send_event({ userId: "ada", type: "register" })

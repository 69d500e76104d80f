// C# (.NET or Mono): posts one event to gmfy-sidecar and goes on.
// 503, 500 and no answer are tried again, after Retry-After where it is given, with the same
// Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer
// says how.
using System;
using System.Net.Http;
using System.Text;
using System.Threading.Tasks;

public static class Sidecar
{
    static readonly string Url =
        (Environment.GetEnvironmentVariable("GMFY_SIDECAR_URL") ?? "http://127.0.0.1:7460/") + "v1/events/";

    static readonly HttpClient Client = new HttpClient { Timeout = TimeSpan.FromSeconds(2) };

    public static async Task<bool> Send(string json)
    {
        var key = Guid.NewGuid().ToString();
        var problem = "";
        for (var attempt = 0; attempt < 3; attempt++)
        {
            var wait = TimeSpan.FromSeconds(1);
            try
            {
                var request = new HttpRequestMessage(HttpMethod.Post, Url);
                request.Headers.Add("Idempotency-Key", key);
                request.Content = new StringContent(json, Encoding.UTF8, "application/json");
                using (var answer = await Client.SendAsync(request))
                {
                    if (answer.IsSuccessStatusCode) return true;
                    problem = (int)answer.StatusCode + " " + await answer.Content.ReadAsStringAsync();
                    if ((int)answer.StatusCode < 500) break;
                    wait = answer.Headers.RetryAfter?.Delta ?? wait;
                    if (wait > TimeSpan.FromSeconds(5)) wait = TimeSpan.FromSeconds(5);
                }
            }
            catch (HttpRequestException error) { problem = error.Message; }
            catch (TaskCanceledException) { problem = "no answer in time"; }
            await Task.Delay(wait);
        }
        Console.Error.WriteLine("event not taken: " + problem);
        return false;
    }

    public static int Main()
    {
        return Send("{\"userId\":\"ada\",\"type\":\"register\"}").GetAwaiter().GetResult() ? 0 : 1;
    }
}

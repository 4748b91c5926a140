#![allow(clippy::unwrap_used)]
use std::sync::Arc; use std::time::Duration; use std::io::{Read,Write};
fn rss()->String{std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l|l.starts_with("VmRSS")||l.starts_with("Threads")).collect::<Vec<_>>().join(" ")}
fn cpu()->f64{let s=std::fs::read_to_string("/proc/self/stat").unwrap();let f:Vec<&str>=s.rsplit(')').next().unwrap().split_whitespace().collect();(f[11].parse::<f64>().unwrap()+f[12].parse::<f64>().unwrap())/100.0}
#[test] fn measure(){
 let rt=tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
 println!("start {}",rss());
 let dir=tempfile::tempdir().unwrap();
 let cfg=spotter::config::Mqtt{listen:([127,0,0,1],0).into(),..Default::default()};
 let (guard,_)=spotter::auth::Guard::open(dir.path(),&Default::default()).unwrap();
 let l=rt.block_on(spotter::mqtt::listen(&cfg)).unwrap().unwrap(); let addr=l.local_addr().unwrap();
 let b=rt.block_on(spotter::mqtt::broker::Broker::new(&cfg,Arc::new(guard),Arc::default())).unwrap();
 let stop=tokio_util::sync::CancellationToken::new();
 let t=rt.spawn(b.run(Some(l),stop.clone())); std::thread::sleep(Duration::from_millis(300));
 println!("idle {}",rss());
 let connect=|id:&str|{let mut s=std::net::TcpStream::connect(addr).unwrap();let mut b=vec![0,4,b'M',b'Q',b'T',b'T',4,2,0,60];b.extend((id.len() as u16).to_be_bytes());b.extend(id.as_bytes());let mut p=vec![0x10,b.len() as u8];p.extend(b);s.write_all(&p).unwrap();let mut r=[0;4];s.read_exact(&mut r).unwrap();assert_eq!(r[3],0);s};
 for n in 0..2{ for i in 0..5000{connect(&format!("client-{n}-{i}"));} println!("{} short connections {}",(n+1)*5000,rss()); }
 for _ in 0..3{connect("a/b");} 
 // 16 subscribers, 160 messages of 600 B a second for 5 s
 let mut subs=Vec::new(); for i in 0..4{let mut s=connect(&format!("s{i}"));s.write_all(b"\x82\x06\0\x01\0\x01#\0").unwrap();let mut s2=s.try_clone().unwrap();std::thread::spawn(move||{let mut b=[0;65536];while s2.read(&mut b).unwrap_or(0)>0{}});subs.push(s);}
 let mut p=connect("pub"); let mut m=vec![0x30,0xdb,0x04,0,1,b't'];m.extend(vec![b'x';600]);
 let c0=cpu(); let t0=std::time::Instant::now(); for _ in 0..800{p.write_all(&m).unwrap();std::thread::sleep(Duration::from_micros(6000));}
 println!("800 publishes to 4 subscribers in {:?}: {} s CPU, {}",t0.elapsed(),cpu()-c0,rss());
 stop.cancel(); rt.block_on(t).unwrap(); println!("stopped {}",rss());
}
